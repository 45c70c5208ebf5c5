"""The data of a chart or table: exact values of one quantity by series and category, made up by topic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Values of one quantity for each category, in one series or several.

    Args:
        title: Title of the picture.
        quantity: A singular noun: "revenue".
        unit: A plural or a symbol that follows a number: "kg".
        noun, nouns: Words for one category and for several: "month", "months".
        joiner: Preposition before a category: "in" for "the revenue in May".
        categories: Names of the categories, in the order in which they are drawn.
        ordered: Whether the categories are in order of time, so that rises and falls are meaningful.
        additive: Whether sums of the quantity are meaningful; they are not for temperatures.
        values: `values[s][c]` is the exact value of series s and category c.
        series: Names of the series; empty if there is only one, which has no name.
        series_joiner: Preposition before a series: "of" for "the revenue of Nord".
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
        """The quantity in words: "revenue", or "revenue of Nord" where there are several series."""
        return f"{self.quantity} {self.series_joiner} {self.series[series]}" if self.series else self.quantity

    def at(self, category: int) -> str:
        """A category in words: "in May"."""
        return f"{self.joiner} {self.categories[category]}"

    def phrase(self, category: int, series: int = 0) -> str:
        """A value's name in words: "revenue of Nord in May"."""
        return f"{self.what(series)} {self.at(category)}"


@dataclass(frozen=True)
class Topic:
    """A subject of made-up grids; values are `low`, `low` + `step`, … up to `high`, which are numbers as text."""

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
    """A made-up grid of a random topic; no value occurs twice in a series, and no name twice.

    Args:
        n_categories: At most this many; fewer where the topic has fewer names.
        ordered: Whether to draw only categories in order of time.
        additive: Whether to draw only quantities that can be added up.
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
    # No value twice in the grid or, where the topic has too few values for that, not twice in a series
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
    """A number as pictures and sentences write it: no exponent, no trailing zeros, at most three decimals.

    Raises ValueError for a number that needs more decimals.
    """
    thousandths = value * 1000
    if thousandths.denominator != 1:
        raise ValueError(f"{value} has more than three decimals: round it first.")
    sign, digits = "-" if value < 0 else "", f"{abs(thousandths.numerator):04d}"
    return f"{sign}{digits[:-3]}.{digits[-3:]}".rstrip("0").rstrip(".")


def rounded(value: Fraction, places: int) -> Fraction:
    """Round to `places` decimals, halves away from zero."""
    scale = 10**places
    whole = (abs(value) * scale * 2 + 1) // 2
    return Fraction(whole if value >= 0 else -whole, scale)
