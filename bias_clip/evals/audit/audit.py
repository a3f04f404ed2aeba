"""Audits models on suites: embeds, scores, resamples, compares; the result is JSON as it stands."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bias_clip.evals.audit.baselines import Baselines, Given, baseline_texts, judge_baselines
from bias_clip.evals.audit.model import AuditModel, Say, audit_encode
from bias_clip.evals.audit.numbers import Number, correct, part_numbers, resample
from bias_clip.evals.audit.provenance import Provenance
from bias_clip.evals.encode import Encode
from bias_clip.evals.headlines import describe
from bias_clip.evals.suites.families import measure
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.measured import MIN_ITEMS
from bias_clip.evals.suites.spec import Suite

VERSION = 2  # 2: models are objects, with provenance


class Item(NamedTuple):
    """A suite and its data.

    Attributes:
      suite: from `load_suite`, or of the user's data.
      data: see `read_suite`.
      files: role to the user's copy of a file that may not be shipped.
      about: what identifies the data in the cache, as JSON.
    """

    suite: Suite
    data: SuiteData | Path | None
    files: Mapping[str, str]
    about: Mapping[str, Any]


class Part(NamedTuple):
    """One part of a suite, such as race, with its numbers and group sizes."""

    name: str
    topic: str
    over_texts: str
    sizes: tuple[tuple[str, int], ...]
    numbers: tuple[Number, ...]


class Audited(NamedTuple):
    """One suite of all models; `clusters` says what was resampled as a whole, if not single images."""

    name: str
    title: str
    metric: str
    source: str
    licence: str
    split: str
    ours: bool
    skipped: tuple[str, ...]
    clusters: str
    parts: tuple[Part, ...]


class Subject(NamedTuple):
    """A model under audit: its name on the page, which one it is, what names its cache, and notes."""

    name: str
    provenance: Provenance
    identity: Mapping[str, Any]
    notes: tuple[str, ...]


class Audit(NamedTuple):
    """Everything on the page.

    Attributes:
      models: in the order that was asked for; the first is what the others are compared with.
      suites: in the order that was asked for.
      baselines: of each model; empty if none were fitted.
      settings: resamples, seed, level, min_items.
    """

    models: tuple[Subject, ...]
    suites: tuple[Audited, ...]
    baselines: tuple[Baselines, ...]
    settings: Mapping[str, Any]


def run_audit(
    models: Sequence[AuditModel],
    items: Sequence[Item],
    *,
    num: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    min_items: int = MIN_ITEMS,
    attribute: str | None = None,
    baselines: bool = True,
    say: Say = lambda text: None,
) -> Audit:
    """Audits all models on all suites; those after the first are compared with it.

    Args:
      models: with different names.
      items: suites and their data.
      num: resamples, at least 2 / (1 - level); rankings of many images take fewer, at least 200.
      seed: of the resamples, the same for all models.
      level: of the intervals.
      min_items: independent items (images, or clusters of them) that a number needs.
      attribute: column that the baselines remove; None for gender, or what the suites group by.
      baselines: whether to fit them.
      say: is told of progress.

    Raises:
      ValueError: no model, or two of one name; too few resamples for the level, or min_items below 1;
        whatever a suite or a model raises.
    """
    _check_settings(num, level, min_items)
    names = [model.name for model in models]
    if not models or len(set(names)) < len(names):
        raise ValueError(f"models are named {names}; expected at least one, each name once.")
    suites = []
    for item in items:
        say(f"suite {item.suite.name}")
        suites.append(_audited(models, item, num, seed, level, min_items))
    fitted: list[Baselines] = []
    without: list[tuple[str, str]] = []
    for model in models if baselines else ():
        say(f"{model.name}: baselines without training")
        found = judge_baselines(
            model,
            _given(items),
            attribute=attribute,
            num=num,
            seed=seed,
            level=level,
            min_items=min_items,
        )
        if isinstance(found, Baselines):
            fitted.append(found)
            continue
        # On the page too: a reader would otherwise look for them.
        without.append((model.name, f"no baselines without training, because {found}"))
        say(f"{model.name}: no baselines without training, because {found}")
    return Audit(
        tuple(
            Subject(
                m.name,
                m.provenance,
                m.identity,
                (*m.notes, *(why for name, why in without if name == m.name)),
            )
            for m in models
        ),
        tuple(suites),
        tuple(fitted),
        {
            "version": VERSION,
            "resamples": num,
            "seed": seed,
            "level": level,
            "min_items": min_items,
        },
    )


def list_texts(
    items: Sequence[Item], *, attribute: str | None = None, baselines: bool = True
) -> list[str]:
    """The texts that an audit asks for, each once, in the order in which it does.

    Args:
      items: suites and their data.
      attribute, baselines: as for `run_audit`; the baselines have prompts of their own.

    Raises:
      ValueError: an attribute that no data have; what a suite raises.
    """
    from bias_clip.evals.audit.recording import recording_encode

    asked: dict[str, None] = {}
    encode: Encode = recording_encode(asked)
    for item in items:
        measure(item.suite, item.data, item.files)(encode)
    if baselines:
        asked.update(dict.fromkeys(baseline_texts(_given(items), attribute=attribute)))
    return list(asked)


def to_json(audit: Any) -> Any:
    """Records as objects, for `json.dumps`."""
    if hasattr(audit, "_asdict"):
        return {key: to_json(value) for key, value in audit._asdict().items()}
    if isinstance(audit, Mapping):
        return {str(key): to_json(value) for key, value in audit.items()}
    if isinstance(audit, list | tuple):
        return [to_json(value) for value in audit]
    return audit


def _given(items: Sequence[Item]) -> list[Given]:
    return [(item.suite, item.data, item.files, item.about) for item in items]


def _check_settings(num: int, level: float, min_items: int) -> None:
    # Each end of an interval needs a resample beyond it.
    least = math.ceil(2 / (1 - level) - 1e-9)
    if num < least:
        raise ValueError(
            f"got {num} resamples; an interval of {level:.0%} needs at least {least}, and 1,000 or "
            "more to be steady."
        )
    if min_items < 1:
        raise ValueError(f"min_items is {min_items}; expected 1 or more.")


def _audited(
    models: Sequence[AuditModel], item: Item, num: int, seed: int, level: float, min_items: int
) -> Audited:
    suite = item.suite
    evaluate: Callable = measure(suite, item.data, item.files)
    found = [evaluate(audit_encode(model, item.about)) for model in models]
    parts, numbers = [], []
    for name in found[0]:
        drawn = [resample(parts_of[name], num=num, seed=seed) for parts_of in found]
        result = found[0][name].result
        numbers.append(part_numbers(drawn, level=level, min_items=min_items))
        topic = describe(result.details).topic
        parts.append((name, topic, found[0][name].over_texts, group_counts(result)))
    corrected = correct(numbers)
    skipped = getattr(item.data, "skipped", ())
    return Audited(
        suite.name,
        suite.title,
        suite.metric,
        suite.source,
        suite.licence,
        suite.split,
        suite.ours,
        tuple(f"{name}: {why}" for name, why in skipped),
        _clusters_said(item.data),
        tuple(Part(*part, tuple(own)) for part, own in zip(parts, corrected, strict=True)),
    )


def _clusters_said(data: Any) -> str:
    clusters = getattr(data, "clusters", None)
    if clusters is None:
        return ""
    number = len(np.unique(clusters))
    return (
        f"Images of one {data.cluster} are resampled together: {len(clusters):,} images in "
        f"{number:,} clusters"
    )


def group_counts(result: Any) -> tuple[tuple[str, int], ...]:
    """What was counted: images, groups, words, in words."""
    from bias_clip.evals.headlines import find_metric

    return tuple(
        (find_metric(key, result.details).name, int(value))
        for key, value in result.metrics.items()
        if find_metric(key, result.details).unit == "count" and value == value
    )
