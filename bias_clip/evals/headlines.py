"""The headline numbers of results, in words, as rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bias_clip.core.formatting import format_unit, spaced
from bias_clip.evals.evaluators import DESCRIPTIONS
from bias_clip.evals.metrics import TOPICS, Description, Metric, chance_level, family_of, filled
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.descriptions import SUITE_DESCRIPTIONS

UNKNOWN = Description("health", "", {})  # an evaluator of another version, or of the user


class Headline(NamedTuple):
    """One row.

    Attributes:
      evaluator: its name in the config, as words.
      metric: the metric's name in words.
      value: with its unit.
      chance: "chance 25.0 %" or "even 50.0 %", the value to compare with; may be empty.
    """

    evaluator: str
    metric: str
    value: str
    chance: str


def headlines(results: Mapping[str, EvalResult]) -> list[Headline]:
    """Returns the headlines of all evaluators, the most important first.

    Args:
      results: results by the names of the evaluators in the config, in its order.
    """
    return [
        Headline(
            spaced(name),
            metric.label,
            format_unit(results[name].metrics[key], metric.unit),
            against(metric, results[name].metrics),
        )
        for name in by_importance(results)
        for key, metric in headline_metrics(results[name]).items()
    ]


def by_importance(results: Mapping[str, EvalResult]) -> list[str]:
    """The names of the results, sorted by topic (see `TOPICS`), in the given order within a topic."""
    # `sorted` is stable, so that results of one topic keep the order of the config.
    return sorted(results, key=lambda name: TOPICS.index(describe(results[name].details).topic))


def describe(details: Mapping[str, Any]) -> Description:
    """The description by the evaluator or suite that wrote these details; UNKNOWN for others."""
    kind = str(details.get("kind"))
    return DESCRIPTIONS.get(kind) or SUITE_DESCRIPTIONS.get(kind, UNKNOWN)


def find_metric(key: str, details: Mapping[str, Any]) -> Metric:
    """The description of the metric with a key; a plain number if there is none.

    Args:
      key: key in the evaluator's metrics.
      details: details of the evaluator, which name its kind and groups.
    """
    metrics = describe(details).metrics
    found = family_of(key, metrics)
    if found is None:
        return Metric(spaced(key), "number")
    family, places = found
    return filled(metrics[family], places, two_groups(details))


def headline_metrics(result: EvalResult) -> dict[str, Metric]:
    """The headline metrics of a result by key, in the order of their description."""
    metrics = describe(result.details).metrics
    found: dict[str, str] = {}  # maps a family to its first member
    for key in result.metrics:
        known = family_of(key, metrics)
        if known and metrics[known[0]].headline:
            # Of a family, such as R@1, R@5, R@10, only the first that was returned is a headline.
            found.setdefault(known[0], key)
    keys = [found[family] for family in metrics if family in found]
    return {key: find_metric(key, result.details) for key in keys}


def against(metric: Metric, values: Mapping[str, float]) -> str:
    """The value to compare the metric with: the chance level, or that of a model without bias."""
    level = chance_level(metric, values)
    if level is not None:
        return f"chance {format_unit(level, metric.unit)}"
    return "" if metric.even is None else f"even {format_unit(metric.even, metric.unit)}"


def two_groups(details: Mapping[str, Any]) -> Sequence[str]:
    """The names of the two groups, if the evaluator compares two."""
    groups = [str(name) for name in details.get("groups") or ()]
    return groups if len(groups) == 2 else ()
