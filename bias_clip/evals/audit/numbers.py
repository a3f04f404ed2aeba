"""The numbers of an audit: values with intervals, chance and sizes; differences with p, corrected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bias_clip.evals.headlines import describe, find_metric
from bias_clip.evals.metrics import Metric, chance_level, family_of
from bias_clip.evals.resampling import (
    NOT_ENOUGH,
    Draws,
    both_draws,
    difference,
    interval,
)
from bias_clip.evals.suites.measured import Measured, bounded
from bias_clip.evals.uncertainty import Estimate, holm, mcnemar

_CONTEXT = ("_chance", "_low", "_high", "_deviation", "_base")  # shown beside other numbers


class Value(NamedTuple):
    """A number of one model. Ends of intervals are None where there are none, for the reason in `note`.

    Attributes:
      value: None where there are not enough items.
      low, high: over images.
      texts_low, texts_high: over templates, words or captions; None where there is one text.
      both_low, both_high: over images and texts.
      official: as the official code has it, where that is another number.
      note: why something is missing.
    """

    value: float | None
    low: float | None
    high: float | None
    texts_low: float | None
    texts_high: float | None
    both_low: float | None
    both_high: float | None
    official: float | None
    note: str


class Contrast(NamedTuple):
    """A model minus the first one on the same items.

    Attributes:
      value, low, high: the difference, and its interval over images.
      p: two-sided; None without one.
      corrected: the same by Holm's method over the numbers of the suite.
      test: "exact" (McNemar) or "bootstrap".
      note: why something is missing.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    corrected: float | None
    test: str
    note: str


class Number(NamedTuple):
    """One number of all models: `values[i]` of model i, `contrasts[i]` of model i + 1 minus the first."""

    key: str
    name: str
    unit: str
    better: str
    headline: bool
    chance: float | None
    even: float | None
    items: int
    values: tuple[Value, ...]
    contrasts: tuple[Contrast, ...]


class Resampled(NamedTuple):
    """One part of one model with its draws."""

    measured: Measured
    images: Draws
    texts: Draws | None


def resample(measured: Measured, *, num: int, seed: int) -> Resampled:
    """Draws over images and, where there are several texts, over texts."""
    texts = None if measured.draw_texts is None else measured.draw_texts(num, seed + 1)
    return Resampled(measured, measured.draw(num, seed), texts)


def part_numbers(models: Sequence[Resampled], *, level: float, min_items: int) -> list[Number]:
    """The numbers of one part of a suite, of all models, in the order of its description."""
    first = models[0].measured.result
    found = []
    for key in ordered_keys(first.metrics, first.details):
        metric = find_metric(key, first.details)
        items = _items(models[0], key)
        values = tuple(_value(model, key, level, min_items) for model in models)
        contrasts = tuple(
            _contrast(models[0], model, key, level, values[0].value, value.value)
            for model, value in zip(models[1:], values[1:], strict=True)
        )
        description = describe(first.details).metrics
        family = (family_of(key, description) or (key, {}))[0]
        headline = family in description and description[family].headline
        chance = chance_level(metric, first.metrics)
        found.append(
            Number(
                key,
                metric.name,
                metric.unit,
                metric.better,
                headline,
                chance,
                _even(key, metric, first.metrics),
                items,
                values,
                contrasts,
            )
        )
    return found


def correct(parts: Sequence[Sequence[Number]]) -> list[list[Number]]:
    """Holm's correction over all numbers of all parts of one suite, for each model."""
    flat = [number for part in parts for number in part]
    columns = []
    for i in range(len(flat[0].contrasts) if flat else 0):
        p = [n.contrasts[i].p for n in flat]
        columns.append(holm([np.nan if value is None else value for value in p]))
    fixed = iter(
        number._replace(
            contrasts=tuple(
                contrast._replace(corrected=_plain(columns[i][row]))
                for i, contrast in enumerate(number.contrasts)
            )
        )
        for row, number in enumerate(flat)
    )
    return [[next(fixed) for _ in part] for part in parts]


def ordered_keys(metrics: Mapping[str, float], details: Mapping) -> list[str]:
    """The numbers that are results: no counts, and nothing that stands beside another number."""
    described = describe(details).metrics
    place = {family: i for i, family in enumerate(described)}
    keys = [
        key
        for key in metrics
        if key != "chance"
        and not key.endswith(_CONTEXT)
        and find_metric(key, details).unit != "count"
    ]
    families = {key: (family_of(key, described) or ("", {}))[0] for key in keys}
    return sorted(keys, key=lambda key: place.get(families[key], len(place)))


def _even(key: str, metric: Metric, metrics: Mapping[str, float]) -> float | None:
    """The value without bias; of an entropy among the images found, that of all images."""
    return metrics.get(f"{key}_base", metric.even)


def _items(model: Resampled, key: str) -> int:
    """Independent items behind a number: of its smallest group, or of all."""
    return model.measured.sizes.get(key, model.images.units)


def _value(model: Resampled, key: str, level: float, min_items: int) -> Value:
    measured = model.measured
    metric = find_metric(key, measured.result.details)
    whole, items = measured.result.metrics[key], _items(model, key)
    missing = measured.result.details.get("not_enough", {}).get(key, "")
    if items < min_items or np.isnan(whole):
        note = missing or f"{NOT_ENOUGH}: {items} where {min_items} are needed"
        return Value(None, None, None, None, None, None, None, None, note)
    own = _interval(model.images, key, level, metric, items)
    texts = _interval(model.texts, key, level, metric) if model.texts else None
    both = None
    if model.texts and key in model.texts.drawn and key in model.images.drawn:
        both = _interval(both_draws(model.images, model.texts), key, level, metric)
    official = None if measured.official is None else measured.official.metrics.get(key)
    if official is not None and abs(official - whole) <= 1e-9:
        official = None
    return Value(
        float(whole),
        _plain(own.low),
        _plain(own.high),
        *((None, None) if texts is None else (_plain(texts.low), _plain(texts.high))),
        *((None, None) if both is None else (_plain(both.low), _plain(both.high))),
        None if official is None else _plain(official),
        own.note,
    )


def _interval(draws: Draws, key: str, level: float, metric: Metric, items: int = 0) -> Estimate:
    if key not in draws.drawn:
        return Estimate(np.nan, np.nan, np.nan, 0, "no interval: not a number of these items")
    return bounded(interval(draws, key, level=level), metric, items=items, level=level)


def _contrast(
    first: Resampled,
    second: Resampled,
    key: str,
    level: float,
    one: float | None,
    two: float | None,
) -> Contrast:
    if one is None or two is None:
        return Contrast(None, None, None, None, None, "", f"{NOT_ENOUGH}: a model has no number")
    if key not in first.images.drawn or key not in second.images.drawn:
        return Contrast(two - one, None, None, None, None, "", "no interval")
    found = difference(first.images, second.images, key, level=level)
    p, test = found.p, "bootstrap"
    hits = first.measured.hits.get(key), second.measured.hits.get(key)
    if hits[0] is not None and hits[1] is not None:
        p, test = mcnemar(hits[0], hits[1]), "exact"
    low, high = _plain(found.estimate.low), _plain(found.estimate.high)
    return Contrast(two - one, low, high, _plain(p), None, test, found.estimate.note)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
