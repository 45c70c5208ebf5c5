"""The solver of questions about tables: each kind of question, from clean words and from words as OCR garbles them."""

import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from tabmwp_solver import solve


STEMS = "Pears per crate\nStem | Leaf \n2 | 0, 5, 5\n3 | \n4 | 1, 8"
OCR_STEMS = "Pearspercrate\nStem Leaf\n2 | O 55\n3\n4 18"
COUNTS = "Kites\nKites flown | Frequency\n0 | 4\n1 | 3\n2 | 0\n3 | 9"
OCR_COUNTS = "Kites\nKitesflown Frequency\nO | 4\n1 3\n2 | 0\n3 | 9"
PLUMS = "Plums\nDay | Number of plums\nMonday | 1,204\nTuesday | 96\nWednesday | 96\nThursday | 100"
OCR_PLUMS = "Plums\nDay Numberofplums\nMonday | 1,204\nTuesday 96\nWednesday | 96\nThursday | 100"
YEARS = "Boats\nYear | Boats\n2011 | 14\n2013 | 8"
OCR_YEARS = "Boats\nYear Boats\n2011 | 14\n2013 8"
PRICES = "jar of red honey | $2.50\nhoney | $4 per kg\nbox of black tea | $3.10\nplum jam | $2/lb"
OCR_PRICES = "jarofredhoney | $2.50\nhoney $4perkg\nboxofblacktea | $3.10\nplumjam | $2/Ib"
RAIN = "Rain (mm)\nTown | 1990 | 2000\nBad Ems | 3 | 9\nUlm | 12 | 4\nLeer | 5 | 6"
OCR_RAIN = "Rain(mm)\nTown | 1990 | 2000\nBadEms | 3 9\nUIm | 12 | 4\nLeer | 5 | 6"
LOST_RAIN = "Rain(mm)\nTown 1990 | 2000\nBadEms | 3 | 9\nUIm | 12 | 4\nLeer | 5 | 6"
HATS = " | Round hats | Tall hats\nWool | 1 | 3\nNew felt | 2 | 4"
OCR_HATS = "Round hats Tallhats\nWool | 1 | 3\nNewfelt | 2 | 4"
GOODS = "Price | Quantity demanded | Quantity supplied\n$5 | 1,900 | 400\n$25 | 1,100 | 1,400"
OCR_GOODS = "Price Quantitydemanded | Quantity supplied\n$5 | 1,900 400\n$25 | 1,100 | 1,400"
STOPS = "Boat\nnew pier | 9:30 A.M. | 11:45 A.M. | 1:15 P.M.\nold mill | 10:00 A.M. | 12:15 P.M. | 1:45 P.M."
OCR_STOPS = "Boat\nnewpier9:30A.M | 11:4 5A.M. 1:15 P.M.\noldmill | 10:00A.M 12:15P.M | 1:45 P.M."
FAIR = "Fair\nEvent | Begin | End\ncow show | 9:30 A.M. | 10:05 A.M.\ndog race | 11:00 A.M. | 12:30 P.M."
OCR_FAIR = "Fair\nEvent | Begin | End\ncowshow | 9:30A.M 10:05A.M\ndograce 11:00 A.M. | 12:30P.M."
CHANGE = "Lake | Change (m)\nUpper lake | -7\nLower lake | 5"
OCR_CHANGE = "Lake | Change(m)\nUpperlake -7\nLowerlake | 5"
PAY = "Employee | Pay period |\nAda Low | May |\nTotal earnings | | $500.00\nFederal income tax | $40.50 |\n"
PAY += "Other taxes | $30.00 |\nTotal taxes | | ?\nPay after taxes | | ?"
OCR_PAY = "Employee | Pay period\nAda Low | May\nTotalearnings | $500.00\nFederalincome tax | $40.50\n"
OCR_PAY += "Othertaxes $30.00\nTotal taxes\nPay after taxes"
BOOK = "Date | Description | Received | Expenses | Available Funds\n | Balance: end of May | | | $9.00\n"
BOOK += "6/3 | a hat | | $4.25 | $4.75\n6/30 | mowing | $8.00 | | $12.75"
OCR_BOOK = "Date | Description | Received | Expenses | AvailableFunds\nBalance:endofMay | $9.00\n"
OCR_BOOK += "6/3 | ahat | $4.25 | $4.75\n6/30 | mowing | $8.00 | $12.75"
CARTS = "Number of carts | Number of wheels\n1 | 4\n2 | 8\n3 | ?"
OCR_CARTS = "Numberof | Numberof\ncarts | wheels\n工 | 4\n2 8\n3 | ？"
LINE, OCR_LINE = "x | y\n1 | 5\n2 | 7\n4 | 11", "X\n1 | 5\n2 7\n4 | 11"
BENT, OCR_BENT = "x | y\n1 | 5\n2 | 7\n3 | 11", "X y\n1 5\n2 | 7\n3 | 11"
FORK, OCR_FORK = BENT + "\n1 | 4", OCR_BENT + "\n1 4"
DAYS, TOWNS, FUNDS = ("Monday", "Tuesday", "Thursday"), ("Bad Ems", "Ulm", "Leer"), ("yes", "no")
GAP, SHAPE, EVENTS = ("shortage", "surplus"), ("linear", "nonlinear"), ("cow show", "dog race")
CASES = [
    (STEMS, OCR_STEMS, "2", "How many crates had exactly 25 pears?"),
    (STEMS, OCR_STEMS, "4", "How many crates have at least 25 pears?"),
    (STEMS, OCR_STEMS, "3", "How many crates have at least 25 pears but fewer than 48 pears?"),
    (STEMS, OCR_STEMS, "4", "How many crates weigh less than 48 pounds?"),
    (STEMS, OCR_STEMS, "48", "What is the largest number of pears?"),
    (STEMS, OCR_STEMS, "20", "What is the age of the youngest tree?"),
    (COUNTS, OCR_COUNTS, "9", "How many children flew more than 2 kites?"),
    (COUNTS, OCR_COUNTS, "7", "How many children flew fewer than 2 kites?"),
    (COUNTS, OCR_COUNTS, "3", "How many children flew a kite once?"),
    (COUNTS, OCR_COUNTS, "4", "How many children did not fly any kites?"),
    (COUNTS, OCR_COUNTS, "16", "How many children are there in all?"),
    (PLUMS, OCR_PLUMS, "374", "What is the mean of the numbers?"),
    (PLUMS, OCR_PLUMS, "98", "What is the median of the numbers?"),
    (PLUMS, OCR_PLUMS, "96", "What is the mode of the numbers?"),
    (PLUMS, OCR_PLUMS, "1108", "What is the range of the numbers?"),
    (PLUMS, OCR_PLUMS, "-1108", "According to the table, what was the rate of change between Monday and Tuesday?"),
    (YEARS, OCR_YEARS, "-3", "According to the table, what was the rate of change between 2011 and 2013?"),
    (PLUMS, OCR_PLUMS, "1104", "How many more plums fell on Monday than on Thursday?"),
    (PLUMS, OCR_PLUMS, "1300", "How many plums fell in all on Monday and Tuesday?"),
    (PLUMS, OCR_PLUMS, "Monday", "On which day did the most plums fall?", DAYS),
    (PLUMS, OCR_PLUMS, "Tuesday", "On which day did the fewest plums fall?", DAYS),
    (PLUMS, OCR_PLUMS, "25/374", "What fraction of the plums fell on Thursday? Simplify your answer."),
    (PRICES, OCR_PRICES, "0.6", "How much more does a box of black tea cost than a jar of red honey?"),
    (PRICES, OCR_PRICES, "5.6", "How much money does Mo need to buy a jar of red honey and a box of black tea?"),
    (PRICES, OCR_PRICES, "9.3", "How much money does Mo need to buy 3 boxes of black tea?"),
    (PRICES, OCR_PRICES, "3", "Mo bought 3/4 of a kilogram of honey. How much did she spend?"),
    (PRICES, OCR_PRICES, "5", "If Mo buys 2+1/2 pounds of plum jam, how much will she spend?"),
    (PRICES, OCR_PRICES, "14", "What is the total cost for 2 kilograms of honey and 3 pounds of plum jam?"),
    (PRICES, OCR_PRICES, "yes", "Mo has $5.10. Does she have enough to buy plum jam and a box of black tea?", FUNDS),
    (PRICES, OCR_PRICES, "no", "Mo has $5.09. Does he have enough to buy plum jam and a box of black tea?", FUNDS),
    (PRICES, OCR_PRICES, "6.9", "Mo has $10. How much money will Mo have left if he buys a box of black tea?"),
    (RAIN, OCR_RAIN, "9", "In 1990, how much more rain fell in Ulm than in Bad Ems?"),
    (RAIN, OCR_RAIN, "6", "How much more rain fell in Bad Ems in 2000 than in 1990?"),
    (RAIN, OCR_RAIN, "4", "How much rain fell in Ulm in 2000?"),
    (RAIN, OCR_RAIN, "16", "How much rain fell in Ulm?"),
    (RAIN, OCR_RAIN, "Ulm", "Which town had the least rain in 2000?", TOWNS),
    (RAIN, OCR_RAIN, "Bad Ems", "Which had more rain in 2000, Bad Ems or Leer?", TOWNS[::2]),
    (RAIN, LOST_RAIN, "3", "How much rain fell in Bad Ems in 1990?"),
    (HATS, OCR_HATS, "0.3", "What is the probability that a randomly selected guest likes wool and tall hats?"),
    (HATS, OCR_HATS, "0.2", "What is the probability that a randomly selected guest likes new felt and round hats?"),
    (GOODS, OCR_GOODS, "shortage", "At a price of $5, is there a shortage or a surplus?", GAP),
    (GOODS, OCR_GOODS, "surplus", "At a price of $25, is there a shortage or a surplus?", GAP),
    (STOPS, OCR_STOPS, "1:15 P.M.", "Mo just missed the 11.45 A.M. boat at the new pier. What time is the next boat?"),
    (
        STOPS,
        OCR_STOPS,
        "1 hour and 30 minutes",
        "Mo just missed the 11.45 A.M. boat at the new pier. How long does he have to wait until the next boat?",
    ),
    (STOPS, OCR_STOPS, "12:15 P.M.", "Mo got on at the new pier at 11.45 A.M. What time will he get to the old mill?"),
    (STOPS, OCR_STOPS, "12:15 P.M.", "Mo is at the new pier at 10.30 A.M. How soon can he get to the old mill?"),
    (STOPS, OCR_STOPS, "30 minutes", "How long does it take to get from the new pier to the old mill?"),
    (FAIR, OCR_FAIR, "11:00 A.M.", "When does the dog race begin?"),
    (FAIR, OCR_FAIR, "10:05 A.M.", "When does the cow show end?"),
    (FAIR, OCR_FAIR, "dog race", "Which event begins at 11.00 A.M.?", EVENTS),
    (FAIR, OCR_FAIR, "cow show", "Which event ends at 10.05 A.M.?", EVENTS),
    (CHANGE, OCR_CHANGE, "Upper lake", "Which lake changed the most?", ("Lower lake", "Upper lake")),
    (PAY, OCR_PAY, "70.5", "Ada lives in a state without state income tax. How much payroll tax did Ada pay?"),
    (PAY, OCR_PAY, "429.5", "Ada lives in a state without state income tax. How much did Ada make after taxes?"),
    (BOOK, OCR_BOOK, "8", "On June 30, how much money did Ada make?"),
    (BOOK, OCR_BOOK, "4.25", "How much money did Ada spend on a hat?"),
    (CARTS, OCR_CARTS, "12", "Each cart has 4 wheels. How many wheels are on 3 carts?"),
    (LINE, OCR_LINE, "linear", "Is the function linear or nonlinear?", SHAPE),
    (BENT, OCR_BENT, "nonlinear", "Is the function linear or nonlinear?", SHAPE),
    (BENT, OCR_BENT, "yes", "Is this relation a function?", FUNDS),
    (FORK, OCR_FORK, "no", "Is this relation a function?", FUNDS),
]
NO_ANSWER = [
    (
        "a name is missing",
        PRICES.replace("box of black tea", ""),
        "How much money does Mo need to buy honey and a box of black tea?",
    ),
    ("a number is missing", RAIN.replace("| 12 ", ""), "In 1990, how much more rain fell in Ulm than in Bad Ems?"),
    ("a column is hidden", LOST_RAIN.replace("Town 1990", "Town1990"), "How much rain fell in Ulm in 1990?"),
    ("a row of counts is misread", COUNTS.replace("1 | 3", "7 | 3"), "How many children flew fewer than 2 kites?"),
    ("a stem is misread", STEMS.replace("3 | ", "9 | "), "How many crates have at least 25 pears?"),
    ("a product is misread", CARTS.replace("8", "9"), "Each cart has 4 wheels. How many wheels are on 3 carts?"),
    ("two modes", PLUMS.replace("100", "1,204"), "What is the mode of the numbers?"),
    (
        "a time is missing",
        STOPS.replace("| 12:15 P.M. ", ""),
        "Mo got on at the new pier at 11.45 A.M. What time will he get to the old mill?",
    ),
    ("no such time", STOPS, "Mo just missed the 11.50 A.M. boat at the new pier. What time is the next boat?"),
    ("no rule", RAIN, "Why is Ulm wet?"),
]


@pytest.mark.parametrize(("table", "garbled", "answer", "question", "choices"), [(*case, None)[:5] for case in CASES])
def test_answers_from_clean_and_from_garbled_words(table, garbled, answer, question, choices):
    assert solve(question, choices, table) == answer
    assert solve(question, choices, garbled) == answer
    assert solve(question, choices, "") is None


@pytest.mark.parametrize(("words", "question"), [case[1:] for case in NO_ANSWER], ids=[case[0] for case in NO_ANSWER])
def test_does_not_guess(words, question):
    assert solve(question, None, words) is None


def test_a_tie_or_a_choice_without_a_row_has_no_answer():
    question = "On which day did the fewest plums fall?"
    assert solve(question, (*DAYS, "Wednesday"), PLUMS) is None
    assert solve(question, (*DAYS, "Sunday"), PLUMS) is None
