"""The data of a chart or a table: one quantity by category and series, synthetic by topic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Grid:
    """One quantity for each category, in one series or several.

    Args:
        title: What the picture is called.
        quantity: A singular noun: "revenue".
        unit: A plural or a symbol that follows a number: "kg".
        noun, nouns: What a category is: "month", "months".
        joiner: What stands before a category: "in" for "the revenue in May".
        categories: Their names, in the order in which they are drawn.
        ordered: Whether that order is one of time, so that rises and falls mean something.
        additive: Whether sums of the quantity mean something; they do not for temperatures.
        values: `values[s][c]`, exact, of series s and category c.
        series: Their names; empty where there is one only, which needs none.
        series_joiner: What stands before a series: "of" for "the revenue of Nord".
    """

    title: str
    quantity: str
    unit: str
    noun: str
    nouns: str
    joiner: str
    categories: tuple[str, ...]
    ordered: bool
    additive: bool
    values: tuple[tuple[Fraction, ...], ...]
    series: tuple[str, ...] = ()
    series_joiner: str = "of"

    def what(self, series: int = 0) -> str:
        """ "revenue", or "revenue of Nord" where there are several series."""
        return f"{self.quantity} {self.series_joiner} {self.series[series]}" if self.series else self.quantity

    def at(self, category: int) -> str:
        """ "in May"."""
        return f"{self.joiner} {self.categories[category]}"

    def phrase(self, category: int, series: int = 0) -> str:
        """ "revenue of Nord in May"."""
        return f"{self.what(series)} {self.at(category)}"


@dataclass(frozen=True)
class Topic:
    """What synthetic grids are drawn from; `low`, `high`, `step` are whole or decimal numbers, as text."""

    title: str
    quantity: str
    unit: str
    category: str
    series: str
    low: str
    high: str
    step: str = "1"
    additive: bool = True


@dataclass(frozen=True)
class _Names:
    noun: str
    nouns: str
    joiner: str
    names: tuple[str, ...]
    ordered: bool = False


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CATEGORIES = {
    "day": _Names("day", "days", "on", _split("Mon Tue Wed Thu Fri Sat Sun"), True),
    "month": _Names("month", "months", "in", _split("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"), True),
    "year": _Names("year", "years", "in", tuple(map(str, range(2008, 2025))), True),
    "week": _Names("week", "weeks", "in", tuple(f"W{i}" for i in range(1, 21)), True),
    "lap": _Names("lap", "laps", "in", tuple(f"L{i}" for i in range(1, 16)), True),
    "city": _Names(
        "city", "cities", "in", _split("Oslo Rome Lima Cairo Paris Delhi Quito Tokyo Milan Seoul Bern Riga")
    ),
    "person": _Names("person", "people", "of", _split("Ana Ben Carl Dora Emil Fay Gus Hana Ivan Jo Kim Leo Mia Noor")),
    "shop": _Names("shop", "shops", "in", _split("North South East West Port Park Mall Hill Lake Gate")),
    "fruit": _Names("fruit", "fruits", "for", _split("Apple Pear Plum Fig Lemon Grape Mango Kiwi Peach Melon Lime")),
    "team": _Names("team", "teams", "of", _split("Reds Blues Lions Bears Hawks Wolves Owls Rams Bulls Jets")),
    "expense": _Names("item", "items", "for", _split("Rent Food Travel Books Gym Phone Power Water Gifts Music")),
    "farm": _Names("farm", "farms", "at", _split("Birch Cedar Elm Oak Pine Ash Maple Willow Alder Rowan")),
}
_SERIES = {
    "brand": ("of", _split("Nova Orbit Pixel Zeta Luma Terra")),
    "person": ("of", _split("Alice Bob Chloe Dan Eve Frank")),
    "crop": ("of", _split("wheat maize rye oats barley beans")),
    "town": ("in", _split("Arden Brook Corby Dunham Elton Frome")),
    "season": ("in", _split("spring summer autumn winter")),
    "vehicle": ("of", _split("cars vans buses trucks bikes taxis")),
    "kind": ("of", _split("adults children pupils seniors staff guests")),
}
PLACES = _split("Arden Brook Corby Dunham Elton Frome Garth Hythe Ilford Jarrow Kirby Leeds Marlow Norton Otley Perth")

TOPICS = (
    Topic("Shop revenue", "revenue", "kEUR", "month", "brand", "12", "96"),
    Topic("Bakery output", "output", "loaves", "day", "brand", "120", "980", "10"),
    Topic("Rainfall", "rainfall", "mm", "month", "town", "4", "98"),
    Topic("Noon temperature", "temperature", "°C", "day", "town", "3", "34", additive=False),
    Topic("Fruit on sale", "stock", "kg", "fruit", "town", "5", "95"),
    Topic("Quiz results", "score", "points", "person", "season", "11", "99"),
    Topic("League table", "score", "points", "team", "season", "8", "90"),
    Topic("Monthly budget", "spending", "EUR", "expense", "person", "20", "480", "10"),
    Topic("Museum visits", "attendance", "visitors", "day", "kind", "15", "320", "5"),
    Topic("Road traffic", "daily count", "vehicles", "city", "vehicle", "100", "990", "10"),
    Topic("Harvest", "yield", "tonnes", "farm", "crop", "1.2", "9.8", "0.1"),
    Topic("Power use", "consumption", "kWh", "week", "person", "21", "99"),
    Topic("Training log", "distance", "km", "week", "person", "2.5", "24.5", "0.5"),
    Topic("Bus tickets", "price", "EUR", "city", "brand", "1.1", "8.9", "0.1", additive=False),
    Topic("Library loans", "lending", "books", "year", "kind", "14", "97"),
    Topic("Go-kart laps", "time", "seconds", "lap", "person", "31", "79"),
    Topic("Tree planting", "planting", "trees", "year", "town", "25", "475", "25"),
    Topic("Shop opening hours", "opening time", "hours", "shop", "brand", "2.5", "12", "0.5"),
)


def synthetic_grid(
    rng: np.random.Generator, n_categories: int, n_series: int = 1, ordered: bool = False, additive: bool = False
) -> Grid:
    """A grid of a topic drawn at random: values without repeats in a series, names without repeats.

    Args:
        n_categories: At most this many; fewer where the topic has fewer names.
        ordered: Only categories with an order of time.
        additive: Only quantities that can be added up.
    """
    topics = [
        topic
        for topic in TOPICS
        if (_CATEGORIES[topic.category].ordered or not ordered) and (topic.additive or not additive)
    ]
    topic = topics[int(rng.integers(len(topics)))]
    names = _CATEGORIES[topic.category]
    n_categories = min(n_categories, len(names.names))
    if names.ordered:
        first = int(rng.integers(len(names.names) - n_categories + 1))
        categories = names.names[first : first + n_categories]
    else:
        categories = _draw(rng, names.names, n_categories)
    joiner, pool = _SERIES[topic.series]
    low, step = Fraction(topic.low), Fraction(topic.step)
    n_values = int((Fraction(topic.high) - low) / step) + 1
    # No value twice, unless there are too few for that; never twice in a series
    n_draws = 1 if n_values >= n_series * n_categories else n_series
    shuffled = [rng.permutation(n_values).tolist() for _ in range(n_draws)]
    drawn = [
        shuffled[0][s * n_categories : (s + 1) * n_categories] if n_draws == 1 else shuffled[s][:n_categories]
        for s in range(n_series)
    ]
    values = tuple(tuple(low + step * k for k in row) for row in drawn)
    return Grid(
        title=f"{topic.title}, {PLACES[int(rng.integers(len(PLACES)))]}",
        quantity=topic.quantity,
        unit=topic.unit,
        noun=names.noun,
        nouns=names.nouns,
        joiner=names.joiner,
        categories=categories,
        ordered=names.ordered,
        additive=topic.additive,
        values=values,
        series=_draw(rng, pool, n_series) if n_series > 1 else (),
        series_joiner=joiner,
    )


def _draw(rng: np.random.Generator, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    return tuple(names[i] for i in rng.permutation(len(names))[:count])


@lru_cache(maxsize=1 << 14)
def plain(value: Fraction) -> str:
    """The number as it is written everywhere: without an exponent or trailing zeros, at most three decimals.

    Raises ValueError for a number that needs more.
    """
    thousandths = value * 1000
    if thousandths.denominator != 1:
        raise ValueError(f"{value} has more than three decimals: round it first.")
    sign, digits = "-" if value < 0 else "", f"{abs(thousandths.numerator):04d}"
    return f"{sign}{digits[:-3]}.{digits[-3:]}".rstrip("0").rstrip(".")


def rounded(value: Fraction, places: int) -> Fraction:
    """Rounded to so many decimals, halves away from zero."""
    scale = 10**places
    whole = (abs(value) * scale * 2 + 1) // 2
    return Fraction(whole if value >= 0 else -whole, scale)
