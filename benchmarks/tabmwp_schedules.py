"""Questions of TabMWP about schedules: rows of a name and times of day, in columns of departures or of two kinds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from tabmwp_words import Problem, Row, mentioned


_TIME = re.compile(r"(\d{1,2})[:.](\d ?\d)\s*([AP])\.?\s*M\b\.?", re.IGNORECASE)
DAY = 24 * 60


def minutes(text: str) -> Fraction | None:
    """A time of day in minutes since midnight; `None` where the text holds none."""
    times = _times(text)
    return times[0] if times else None


def clock(time: Fraction) -> str:
    """Minutes since midnight as a time of day, "2:05 P.M."."""
    hour, minute = divmod(int(time) % DAY, 60)
    return f"{hour % 12 or 12}:{minute:02} {'AP'[hour >= 12]}.M."


def schedule_of(words: str) -> list[Row]:
    """The rows of a table that have times of day."""
    rows = []
    for line in words.splitlines():
        times = _times(line)
        if times:
            found = _TIME.search(line)
            rows.append(Row(line[: found.start()].strip(" |") if found else "", tuple(times)))
    return rows


def _times(text: str) -> list[Fraction]:
    times = [(int(hour), int(minute.replace(" ", "")), half) for hour, minute, half in _TIME.findall(text)]
    return [
        Fraction(hour % 12 * 60 + minute + 720 * (half in "pP"))
        for hour, minute, half in times
        if hour <= 12 and minute < 60
    ]


def event_time(problem: Problem) -> str | None:
    """When an event begins or ends, or a stop is arrived at or left."""
    rows = schedule_of(problem.words)
    named = mentioned([row.name for row in rows], problem.ask)
    row = rows[named[0][0]] if len(named) == 1 else None
    width = max((len(each.values) for each in rows), default=0)
    if not row or len(row.values) != width or width > 2:
        return None
    return clock(row.values[-1 if re.search(r"\b(end|depart)\b", problem.ask) else 0])


def event_at(problem: Problem) -> str | None:
    """Which event begins or ends, or which stop is arrived at or left, at a time."""
    time, rows = minutes(problem.ask), schedule_of(problem.words)
    width = max((len(row.values) for row in rows), default=0)
    column = 1 if width == 2 and re.search(r"\b(ends?|depart)\b", problem.ask) else 0
    hits = [row.name for row in rows if len(row.values) == width <= 2 and row.values[column] == time]
    return problem.choice(hits[0]) if len(hits) == 1 else None


def journey(problem: Problem) -> str | None:
    """Departures in columns: the next one after a time, the wait for it, when one arrives, or how long it takes."""
    rows = [Row(row.name, _past_midnight(row.values)) for row in schedule_of(problem.words)]
    named = [rows[index] for index, _ in mentioned([row.name for row in rows], problem.question)]
    width = max((len(row.values) for row in rows), default=0)
    if any(len(row.values) != width for row in named):
        return None  # a time is missing in the words: columns cannot be told
    time, ask = minutes(problem.question), problem.ask
    if "How long does it take" in ask and len(named) == 2:
        return _duration(named[1].values[0] - named[0].values[0])
    if time is None or not named:
        return None
    times = [each % DAY for each in named[0].values]
    if "just missed" in problem.question:
        if len(named) != 1 or time not in times[:-1]:
            return None
        missed, following = named[0].values[times.index(time) :][:2]
        return _duration(following - missed) if "How long" in ask else clock(following)
    if len(named) != 2 or ("got on" in problem.question and time not in times):
        return None
    column = next((index for index, each in enumerate(times) if each >= time), None)
    return None if column is None else clock(named[1].values[column])


def _past_midnight(times: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """Times of one row with a day added after each midnight."""
    shifted: list[Fraction] = []
    for time in times:
        days = shifted[-1] // DAY if shifted else 0
        shifted.append(time + days * DAY + (DAY if shifted and time + days * DAY < shifted[-1] else 0))
    return tuple(shifted)


def _duration(length: Fraction) -> str:
    hours, rest = divmod(int(length) % DAY, 60)
    parts = [f"{count} {unit}{'s' * (count > 1)}" for count, unit in ((hours, "hour"), (rest, "minute")) if count]
    return " and ".join(parts)
