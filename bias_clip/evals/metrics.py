"""What an evaluator says of its metrics: name, unit, better direction and chance level.

Whoever shows metrics (report, comparison, terminal, TensorBoard) reads these records and keeps no list of its own.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from bias_clip.core.formatting import is_number, spaced

Unit = Literal["share", "points", "signed points", "nats", "cosine", "count", "number"]
Better = Literal["higher", "lower", "neither"]

# What an evaluator is about, in the order in which a reader asks for it.
TOPICS = ("recognition", "retrieval", "composition", "bias", "features", "data", "health")


class Metric(NamedTuple):
    """One metric; or a family, where its key has places such as "{k}" (digits) or "{group}".

    Attributes:
      name: in words. It may use the places of the key, and {first} and {second} for the evaluator's
        two groups.
      unit: share (0 to 1, shown in per cent), points (a distance of two shares, shown in percentage
        points; "signed points" with its sign), nats, cosine, count or number.
      better: the direction that is better: higher, lower or neither.
      headline: whether it is among the first numbers that a reader needs. Of a family, the first
        member that the evaluator returns is.
      chance: key of the metric that holds the value of a random guess, if there is one.
      tries: guesses of which one must be right, where `chance` is for one guess.
      even: value of a model without bias, if there is one.
      chart: title of the chart that shows it over training, None for no chart. "" is the chart that
        bears the evaluator's name alone.
      short: name on that chart and in a tile; None for `name`.
    """

    name: str
    unit: Unit
    better: Better = "neither"
    headline: bool = False
    chance: str | None = None
    tries: int = 1
    even: float | None = None
    chart: str | None = None
    short: str | None = None

    @property
    def label(self) -> str:
        """The short name, or the name where there is no short one."""
        return self.name if self.short is None else self.short


class Description(NamedTuple):
    """An evaluator in words.

    Attributes:
      topic: one of `TOPICS`.
      reads: how to read its headlines, in a sentence or two. It may use {first}, {second}, {groups}
        (the names of all groups) and the key of any metric, for its value.
      metrics: everything that it may return, in the order of importance.
    """

    topic: str
    reads: str
    metrics: Mapping[str, Metric]


def count(name: str) -> Metric:
    """A number of things, such as images: context for the other metrics."""
    return Metric(name, "count")


def family_of(key: str, metrics: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """The entry of `metrics` that describes a key, and the values of its places; None if none does.

    An exact key wins over a family, and a family with more fixed letters over one with fewer.
    """
    metrics = list(metrics)
    if key in metrics:
        return key, {}
    for family in sorted(metrics, key=lambda name: -len(re.sub(r"{\w+}", "", name))):
        match = re.fullmatch(_pattern(family), key, re.DOTALL)
        if match and "{" in family:
            return family, match.groupdict()
    return None


def filled(metric: Metric, places: Mapping[str, str], groups: Iterable[str] = ()) -> Metric:
    """The metric of one key: its words with the values of the places and the names of the groups."""
    words = {place: spaced(value) for place, value in places.items()}
    first, second = [f"“{name}”" for name in groups] or ["the first group", "the second group"]
    words |= {"first": first, "second": second}
    chance = None if metric.chance is None else metric.chance.format(**places)
    short = None if metric.short is None else metric.short.format(**words)
    return metric._replace(name=metric.name.format(**words), chance=chance, short=short)


def chance_level(metric: Metric, values: Mapping[str, float]) -> float | None:
    """The value of a random guess in the metric's unit; None where none is known.

    Args:
      metric: of one key, see `filled`.
      values: all metrics of the evaluator.
    """
    level = None if metric.chance is None else values.get(metric.chance)
    return min(1.0, metric.tries * level) if is_number(level) else None


def _pattern(family: str) -> str:
    parts = re.split(r"({\w+})", family)
    return "".join(_place(part[1:-1]) if part[:1] == "{" else re.escape(part) for part in parts)


def _place(name: str) -> str:
    return rf"(?P<{name}>\d+)" if name == "k" else f"(?P<{name}>.+)"
