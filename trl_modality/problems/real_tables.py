"""
Records from real tables that ship inside the PyPI package `vega_datasets` 0.9 (MIT licence, © 2018 Jake Vanderplas).

Only tables that the package carries itself are read, so nothing is downloaded. Their sources, as the package states
them (`vega_datasets/dataset_info.json`):

- `seattle-weather`: daily weather in Seattle, 2012-2015, from public-domain NOAA data
  (https://www.weather.gov/disclaimer).
- `cars`: consumption, power, weight and acceleration of cars, 1970-1982. Donoho, David and Ramos, Ernesto (1982),
  "PRIMDATA: Data Sets for Use With PRIM-H", made public at http://lib.stat.cmu.edu/datasets/.
- `barley`: yields of barley in Minnesota, 1931-1932. F. R. Immer, H. K. Hayes and LeRoy Powers (1934), "Statistical
  determination of barley varietal adaptation", Journal of the American Society of Agronomy 26 (5): 403-419.
- `stocks`: month-end prices of five companies, 2000-2010.
- `iris`: sepals and petals of 150 flowers. R. A. Fisher (1936), "The use of multiple measurements in taxonomic
  problems", Annals of Eugenics 7 (2): 179-188.

Every value is rounded to a whole number of the unit that ends the record's title ("Seattle high, 4 C" counts steps of
4 °C, "tenth of max" tenths of the largest value of that column); a record with a value outside 0-9
is left out rather than clipped, so that each fact is one digit and true.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from .._extras import require


WEEKDAYS = ("mon", "tue", "wed", "thu")


@dataclass(frozen=True)
class Record:
    """One row of a table: a title that states the units, and (name, value) facts in the table's own order."""

    title: str
    facts: tuple[tuple[str, int], ...]


def load_records(shifted: bool = False) -> list[Record]:
    """
    Distinct records of all tables, in a fixed order; no two have the same facts.

    Args:
        shifted: Whether to read other tables (stocks, barley), to test a model that was trained on the first ones.

    Raises `ImportError`, naming the extra, when `vega_datasets` is not installed.
    """
    candidates = [*_stocks(), *_barley()] if shifted else [*_seattle_weeks(), *_cars(), *_irises()]
    distinct: dict[tuple, Record] = {}
    for title, values in candidates:
        facts = tuple((name, math.floor(value + 0.5)) for name, value in values)
        if all(0 <= value <= 9 for _, value in facts):
            distinct.setdefault(facts, Record(title, facts))
    return list(distinct.values())


def read_table(table: str) -> list[dict[str, Any]]:
    """
    Rows of a table that the package carries, numbers as the JSON or the text has them.

    Raises `ImportError`, naming the extra, when `vega_datasets` is not installed.
    """
    require("vega_datasets", extra="examples", purpose="Real data is read from the tables of")
    # `local_data`, not `data`: it knows only the tables that need no download.
    from vega_datasets import local_data

    # Not the package's own data frames: reading the text ourselves keeps every value as written.
    text = getattr(local_data, table).raw().decode()
    return json.loads(text) if text.lstrip().startswith("[") else list(csv.DictReader(text.splitlines()))


def _barley() -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Yields of one variety in one year at four places, in steps of 8 bushels per acre."""
    places = {"dul": "Duluth", "crk": "Crookston", "mor": "Morris", "was": "Waseca"}
    rows = read_table("barley")
    yields = {(row["variety"], row["year"], row["site"]): row["yield"] for row in rows}
    for variety, year in dict.fromkeys((row["variety"], row["year"]) for row in rows):
        at = [yields[variety, year, site] for site in places.values()]
        yield "Barley, 8 bushels", [(name, bushels / 8) for name, bushels in zip(places, at, strict=True)]


def _stocks() -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Four prices of one month, each in tenths of the largest price of its company."""
    symbols = ("IBM", "MSFT", "AMZN", "AAPL")
    prices = {(row["symbol"], row["date"]): float(row["price"]) for row in read_table("stocks")}
    largest = {symbol: max(price for (owner, _), price in prices.items() if owner == symbol) for symbol in symbols}
    for month in dict.fromkeys(month for _, month in prices):
        if all((symbol, month) in prices for symbol in symbols):
            tenths = [10 * prices[symbol, month] / largest[symbol] for symbol in symbols]
            yield "Stock, tenth of max", list(zip(map(str.lower, symbols), tenths, strict=True))


def _seattle_weeks() -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Monday to Thursday of one quantity: the names stay the same and no day is always the largest."""
    rows = {date(*map(int, row["date"].split("/"))): row for row in read_table("seattle_weather")}
    quantities = (
        ("wind", 1, "Seattle wind, m/s"),
        ("temp_max", 4, "Seattle high, 4 C"),
        ("temp_min", 2, "Seattle low, 2 C"),
    )
    for column, step, title in quantities:
        for monday in rows:
            week = [monday + timedelta(days=offset) for offset in range(len(WEEKDAYS))]
            days = [rows[day] for day in week if day in rows]
            if monday.weekday() == 0 and len(days) == len(WEEKDAYS):
                yield title, [(name, float(day[column]) / step) for name, day in zip(WEEKDAYS, days, strict=True)]


def _cars() -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Each quantity in tenths of its largest value, the one unit that suits all four."""
    columns = (("mpg", "Miles_per_Gallon"), ("hp", "Horsepower"), ("lb", "Weight_in_lbs"), ("sec", "Acceleration"))
    rows = [row for row in read_table("cars") if all(row[column] is not None for _, column in columns)]
    largest = {column: max(row[column] for row in rows) for _, column in columns}
    for row in rows:
        yield "Car, tenth of max", [(name, 10 * row[column] / largest[column]) for name, column in columns]


def _irises() -> Iterator[tuple[str, list[tuple[str, float]]]]:
    columns = (("sl", "sepalLength"), ("sw", "sepalWidth"), ("pl", "petalLength"), ("pw", "petalWidth"))
    for row in read_table("iris"):
        yield "Iris, cm", [(name, row[column]) for name, column in columns]
