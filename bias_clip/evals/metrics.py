"""The description of an evaluator's metrics: name, unit, better direction and chance level.

Report, comparison, terminal and TensorBoard read these records and keep no separate lists.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from bias_clip.core.formatting import is_number, spaced

Unit = Literal["share", "points", "signed points", "nats", "cosine", "count", "number"]
Better = Literal["higher", "lower", "neither"]

# The topics of evaluators, the most important for a reader first.
TOPICS = ("recognition", "retrieval", "composition", "bias", "features", "data", "health")


class Metric(NamedTuple):
    """One metric, or a family if its key has placeholders such as "{k}" (digits) or "{group}".

    Attributes:
      name: name in words. It may use the placeholders of the key, and {first} and {second} for the
        two groups of the evaluator.
      unit: share (0 to 1, shown in per cent), points (a distance of two shares, shown in percentage
        points; "signed points" with its sign), nats, cosine, count or number.
      better: the better direction: higher, lower or neither.
      headline: whether a reader needs it among the first numbers. In a family, only the first member
        that the evaluator returns is a headline.
      chance: key of the metric with the value of a random guess, if there is one.
      tries: number of guesses of which one must be right, when `chance` is for one guess.
      even: value of a model without bias, if there is one.
      chart: title of the chart that shows it over training; None for no chart. "" is the chart that
        has only the evaluator's name.
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
        """The short name, or the name if there is no short one."""
        return self.name if self.short is None else self.short


class Description(NamedTuple):
    """An evaluator in words.

    Attributes:
      topic: one of `TOPICS`.
      reads: how to read its headlines, in one or two sentences. It may use {first}, {second},
        {groups} (the names of all groups) and the key of any metric, for its value.
      metrics: everything that it may return, the most important first.
    """

    topic: str
    reads: str
    metrics: Mapping[str, Metric]


def count(name: str) -> Metric:
    """A number of things, such as images: context for the other metrics."""
    return Metric(name, "count")


def family_of(key: str, metrics: Iterable[str]) -> tuple[str, dict[str, str]] | None:
    """The entry of `metrics` for a key, and the values of its placeholders; None without an entry.

    An exact key takes precedence over a family, and a family with more fixed letters over others.
    """
    metrics = list(metrics)
    if key in metrics:
        return key, {}
    # The most fixed letters first: "acc_of_{group}" before "acc_{pattern}".
    for family in sorted(metrics, key=lambda name: -len(re.sub(r"{\w+}", "", name))):
        # DOTALL: names of groups come from data, and may hold a line break.
        match = re.fullmatch(_pattern(family), key, re.DOTALL)
        if match and "{" in family:
            return family, match.groupdict()
    return None


def filled(metric: Metric, places: Mapping[str, str], groups: Iterable[str] = ()) -> Metric:
    """The metric with its placeholders replaced by their values and the names of the groups."""
    words = {place: spaced(value) for place, value in places.items()}
    first, second = [f"“{name}”" for name in groups] or ["the first group", "the second group"]
    # Without two groups the words stand for them in general, so that every name can be filled.
    words |= {"first": first, "second": second}
    chance = None if metric.chance is None else metric.chance.format(**places)
    short = None if metric.short is None else metric.short.format(**words)
    return metric._replace(name=metric.name.format(**words), chance=chance, short=short)


def chance_level(metric: Metric, values: Mapping[str, float]) -> float | None:
    """The value of a random guess in the metric's unit; None if unknown.

    Args:
      metric: the metric of one key, see `filled`.
      values: all metrics of the evaluator.
    """
    level = None if metric.chance is None else values.get(metric.chance)
    return min(1.0, metric.tries * level) if is_number(level) else None


def _pattern(family: str) -> str:
    parts = re.split(r"({\w+})", family)
    return "".join(_place(part[1:-1]) if part[:1] == "{" else re.escape(part) for part in parts)


def _place(name: str) -> str:
    return rf"(?P<{name}>\d+)" if name == "k" else f"(?P<{name}>.+)"
