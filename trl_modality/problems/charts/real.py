"""Grids and points from real tables that ship inside the PyPI package `vega_datasets` 0.9.

`problems.real_tables` states the sources of the weather, cars and irises; those of the other tables are:

- `barley`: yields of barley by variety, site and year. Immer, Hayes and LeRoy Powers (1934), "Statistical
  determination of barley varietal adaptation", Journal of the American Society for Agronomy 26, 403-419.
- `iowa-electricity`: electricity generated in Iowa by source, 2001-2017, published in the public domain by the U.S.
  Energy Information Administration.
- `wheat`: price of wheat and weekly wages in England, 1565-1821, read from William Playfair's chart of 1822.

Values are rounded to one decimal where the table has more; sums and maxima of days are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ..real_tables import read_table
from .grid import Grid, rounded


@dataclass(frozen=True)
class _Source:
    """All values of a quantity, `cells[series, category]`, from which a grid takes a random part."""

    title: str
    quantity: str
    unit: str
    noun: str
    nouns: str
    joiner: str
    series_joiner: str
    cells: dict[tuple[str, str], Fraction]
    ordered: bool = True
    additive: bool = False


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _number(value: object) -> Fraction:
    return rounded(Fraction(str(value)), 1)


def _weather() -> list[_Source]:
    days = read_table("seattle_weather")
    merge: tuple[tuple[str, str, str, str, Callable], ...] = (
        ("precipitation", "Seattle rain", "precipitation", "mm", lambda a, b: a + b),
        ("temp_max", "Seattle heat", "highest temperature", "°C", max),
        ("wind", "Seattle wind", "strongest wind", "m/s", max),
    )
    found = []
    for column, title, quantity, unit, join in merge:
        cells: dict[tuple[str, str], Fraction] = {}
        for day in days:
            year, month, _ = day["date"].split("/")
            key = (year, _MONTHS[int(month) - 1])
            value = Fraction(day[column])
            cells[key] = join(cells[key], value) if key in cells else value
        found.append(_Source(title, quantity, unit, "month", "months", "in", "in", cells, additive=join is not max))
    return found


def _iowa() -> list[_Source]:
    names = {"Fossil Fuels": "fossil fuels", "Nuclear Energy": "nuclear", "Renewables": "renewables"}
    rows = [(names[row["source"]], row["year"][:4], row["net_generation"]) for row in read_table("iowa_electricity")]
    by_year = {(source, year): _number(Fraction(value) / 1000) for source, year, value in rows}
    by_source = {(year, source): value for (source, year), value in by_year.items()}
    title, quantity = "Electricity in Iowa", "generation"
    return [
        _Source(title, quantity, "TWh", "year", "years", "in", "from", by_year, additive=True),
        _Source(title, quantity, "TWh", "source", "sources", "from", "in", by_source, ordered=False, additive=True),
    ]


def _barley() -> list[_Source]:
    found = []
    rows = read_table("barley")
    for site in sorted({row["site"] for row in rows}):
        cells = {
            (str(row["year"]), row["variety"].removeprefix("Wisconsin ")): _number(row["yield"])
            for row in rows
            if row["site"] == site
        }
        found.append(
            _Source(f"Barley, {site}", "yield", "bushels", "variety", "varieties", "of", "in", cells, ordered=False)
        )
    return found


def _wheat() -> list[_Source]:
    rows = [row for row in read_table("wheat") if row.get("wages") is not None]
    found = []
    for column, quantity in (("wheat", "price"), ("wages", "wage")):
        cells = {("", str(row["year"])): _number(row[column]) for row in rows}
        title = "Wheat in England" if column == "wheat" else "Wages in England"
        found.append(_Source(title, quantity, "shillings", "year", "years", "in", "of", cells))
    return found


@lru_cache(maxsize=1)
def _sources() -> tuple[_Source, ...]:
    return (*_weather(), *_iowa(), *_barley(), *_wheat())


def real_grid(
    rng: np.random.Generator, n_categories: int, n_series: int = 1, ordered: bool = False, additive: bool = False
) -> Grid:
    """Part of a real table drawn at random; arguments as for `synthetic_grid`.

    Raises `ImportError`, naming the extra, when `vega_datasets` is not installed.
    """
    sources = [
        source
        for source in _sources()
        if (source.ordered or not ordered)
        and (source.additive or not additive)
        and len({series for series, _ in source.cells}) >= n_series
    ]
    source = sources[int(rng.integers(len(sources)))]
    all_series = sorted({series for series, _ in source.cells})
    series = [all_series[i] for i in sorted(rng.permutation(len(all_series))[:n_series].tolist())]
    categories = list(dict.fromkeys(category for name, category in source.cells if name == series[0]))
    n_categories = min(n_categories, len(categories))
    if source.ordered:
        first = int(rng.integers(len(categories) - n_categories + 1))
        categories = categories[first : first + n_categories]
    else:
        categories = [categories[i] for i in rng.permutation(len(categories))[:n_categories]]
    # The title names the series (a year, a site) if only one of several is shown
    title = source.title if n_series > 1 or not series[0] else f"{source.title}, {series[0]}"
    return Grid(
        title=title,
        quantity=source.quantity,
        unit=source.unit,
        noun=source.noun,
        nouns=source.nouns,
        joiner=source.joiner,
        categories=tuple(categories),
        ordered=source.ordered,
        additive=source.additive,
        values=tuple(tuple(source.cells[name, category] for category in categories) for name in series),
        series=tuple(series) if n_series > 1 else (),
        series_joiner=source.series_joiner,
    )


@dataclass(frozen=True)
class RealPoints:
    """Measured points (group, x, y), with the names and units of both axes."""

    title: str
    x: str
    y: str
    x_unit: str
    y_unit: str
    points: tuple[tuple[str, Fraction, Fraction], ...]


@lru_cache(maxsize=1)
def real_points() -> tuple[RealPoints, ...]:
    """Cars and irises as points; those that lack a number are left out, and equal ones are kept once.

    Raises `ImportError`, naming the extra, when `vega_datasets` is not installed.
    """
    cars, irises = read_table("cars"), read_table("iris")
    wanted = (
        ("Cars", "power", "consumption", "hp", "mpg", cars, "Origin", "Horsepower", "Miles_per_Gallon"),
        ("Irises", "petal length", "petal width", "cm", "cm", irises, "species", "petalLength", "petalWidth"),
        ("Irises", "sepal length", "sepal width", "cm", "cm", irises, "species", "sepalLength", "sepalWidth"),
    )
    found = []
    for title, x, y, x_unit, y_unit, rows, group, x_column, y_column in wanted:
        points = dict.fromkeys(
            (row[group], _number(row[x_column]), _number(row[y_column]))
            for row in rows
            if row[x_column] is not None and row[y_column] is not None
        )
        found.append(RealPoints(title, x, y, x_unit, y_unit, tuple(points)))
    return tuple(found)
