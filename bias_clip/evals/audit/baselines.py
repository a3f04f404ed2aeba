"""What a projection buys that is free: fitted on half of the images, judged on the others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from bias_clip.data.records import Source, column
from bias_clip.evals.audit.model import AuditModel, all_same, audit_encode
from bias_clip.evals.audit.numbers import Number, Resampled, correct, part_numbers, resample
from bias_clip.evals.debiasing.transforms import (
    Transform,
    feature_clipping,
    group_prompts,
    projections,
    prompt_projection,
)
from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import unit
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.families import measure
from bias_clip.evals.suites.layouts.data import SuiteData, take
from bias_clip.evals.suites.measured import Measured, group_units
from bias_clip.evals.suites.spec import Suite

Given = tuple[Suite, SuiteData | Path | None, Mapping[str, str], Mapping[str, Any]]
# The first that some data have; if they have none of these, what the suites group by.
ATTRIBUTES = ("gender", "Male", "group", "background")
MIN_GROUP = 10  # images of a group, or clusters of them: five to fit on, and five to judge
NO_ATTRIBUTE = f"no data have two groups with {MIN_GROUP} images each"
SAME = "all images have the same embedding"
MAX_DRAWS = 500
SHOWN = 2  # texts in a reason


class BaselineSuite(NamedTuple):
    """Headline numbers of one suite part: `values[0]` without a change, then of each baseline."""

    suite: str
    title: str
    part: str
    numbers: tuple[Number, ...]


class Baselines(NamedTuple):
    """The baselines of one model.

    Attributes:
      model: its name.
      attribute: the column that was removed.
      groups: its values.
      fitted: images that were fitted on.
      names: "as it is", then the baselines; the order of the values.
      sources: paper and equation of each baseline.
      suites: what they do to each suite.
    """

    model: str
    attribute: str
    groups: tuple[str, ...]
    fitted: int
    names: tuple[str, ...]
    sources: tuple[str, ...]
    suites: tuple[BaselineSuite, ...]


def judge_baselines(
    model: AuditModel,
    items: Sequence[Given],
    *,
    attribute: str | None,
    num: int,
    seed: int,
    level: float,
    min_items: int,
) -> Baselines | str:
    """Fits the baselines on half of the images of known group, and judges them on all others.

    Returns:
      The reason if there is nothing to fit: no data have the attribute with enough images of two
      groups, or all images have the same embedding.

    Raises:
      ValueError: an attribute that was asked for and that no data have.
    """
    place = find_attribute(items, attribute)
    if place is None:
        return NO_ATTRIBUTE
    index, name = place
    _, data, _, about = items[index]
    assert isinstance(data, SuiteData)
    codes = large_groups(data.codes[name], data.clusters)
    rows = fit_rows(codes, data.clusters, seed=seed)
    z, groups = audit_encode(model, about).images(data.source)[rows], codes[rows]
    if all_same(z):
        return SAME
    names = _group_names(data, name)
    made: list[Transform] = [*projections(z, groups), feature_clipping(z, groups)]
    made.append(prompt_projection(model.texts(group_prompts(names))))
    # All images of the clusters that were fitted on are left out of the judgement.
    seen = rows if data.clusters is None else np.isin(data.clusters, data.clusters[rows])
    used = set(column(data.source, "id")[seen].astype(str).tolist())
    suites: list[BaselineSuite] = []
    for item in items:
        suites += _judged(model, item, about, used, made, (num, seed, level, min_items))
    return Baselines(
        model.name,
        name,
        tuple(names),
        len(rows),
        ("as it is", *(t.name for t in made)),
        tuple(t.source for t in made),
        tuple(suites),
    )


def baseline_texts(items: Sequence[Given], *, attribute: str | None) -> list[str]:
    """The prompts that the baselines ask for beside those of the suites; none without an attribute.

    Raises:
      ValueError: an attribute that was asked for and that no data have.
    """
    place = find_attribute(items, attribute)
    if place is None:
        return []
    data = items[place[0]][1]
    assert isinstance(data, SuiteData)
    return group_prompts(_group_names(data, place[1]))


def _group_names(data: SuiteData, name: str) -> tuple[str, ...]:
    return tuple(data.names.get(name) or map(str, range(int(data.codes[name].max()) + 1)))


def large_groups(
    codes: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"] | None
) -> Int[np.ndarray, " n"]:
    """The codes, with -1 for groups of which there are too few items to fit on some and judge others."""
    units = group_units(codes, clusters, num_groups=int(codes.max(initial=-1)) + 1)
    return np.where(np.isin(codes, np.flatnonzero(units >= MIN_GROUP)), codes, -1)


def fit_rows(
    codes: Int[np.ndarray, " n"], clusters: Int[np.ndarray, " n"] | None = None, *, seed: int
) -> Int[np.ndarray, " m"]:
    """The rows of half of the images of each known group, at random; a cluster is taken as a whole.

    So no person or concept is both fitted on and judged. Half of the clusters that have the same groups
    are taken, which leaves the groups in proportion.
    """
    known = np.flatnonzero(codes >= 0)
    units = known if clusters is None else clusters[known]
    groups_of: dict[int, set[int]] = {}
    for one, code in zip(units.tolist(), codes[known].tolist(), strict=True):
        groups_of.setdefault(one, set()).add(code)
    # Clusters with the same groups stand together, in random order: every other one is half of each kind.
    names = np.random.default_rng(seed).permutation(np.array(sorted(groups_of), np.int64))
    alike = sorted(names.tolist(), key=lambda one: tuple(sorted(groups_of[one])))
    return known[np.isin(units, alike[::2])]


def find_attribute(items: Sequence[Given], attribute: str | None) -> tuple[int, str] | None:
    """The place of the data with most images of the attribute's groups, and the attribute."""
    grouped = [key for suite, _, _, _ in items for key in suite.groups]
    wanted = dict.fromkeys([*ATTRIBUTES, *grouped] if attribute is None else [attribute])
    for name in wanted:
        sizes = []
        for i, (_, data, _, _) in enumerate(items):
            if not isinstance(data, SuiteData) or name not in data.codes:
                continue
            large = large_groups(data.codes[name], data.clusters)
            if len(np.unique(large[large >= 0])) > 1:
                sizes.append((int((large >= 0).sum()), -i))
        if sizes:
            return -max(sizes)[1], name
    if attribute is not None:
        has = sorted({k for _, d, _, _ in items if isinstance(d, SuiteData) for k in d.codes})
        raise ValueError(
            f"attribute {attribute!r}: {NO_ATTRIBUTE}; they have the columns {has}. Choose another "
            "--attribute, or --no-baselines."
        )
    return None


def transformed(encode: Encode, transform: Transform, gone: dict[str, None]) -> Encode:
    """The encoder with changed embeddings, of unit length again; those that are zero then stay zero.

    Args:
      encode: of the model.
      transform: the change.
      gone: is told of which texts, or of how many images, nothing is left.
    """

    def images(source: Source) -> np.ndarray:
        z = unit(transform.images(encode.images(source)))
        number = int((~z.any(axis=1)).sum())
        if number:
            gone[f"{number} of {len(z)} images"] = None
        return z

    def texts(strings: Sequence[str]) -> np.ndarray:
        z = unit(transform.texts(encode.texts(strings)))
        gone.update(
            dict.fromkeys(f"“{strings[i]}”" for i in np.flatnonzero(~z.any(axis=1)).tolist())
        )
        return z

    return encode._replace(images=images, texts=texts)


def undefined(part: Measured, gone: Mapping[str, None]) -> Measured:
    """The part with a reason in place of each number.

    Scores of an embedding of which nothing is left are all equal. A number of them would look like that of a
    model without bias, or without knowledge.
    """
    shown = [*gone][:SHOWN]
    more = f" and {len(gone) - len(shown)} more" if len(gone) > len(shown) else ""
    why = f"not defined: nothing is left of {', '.join(shown)}{more}"
    metrics = dict.fromkeys(part.result.metrics, float("nan"))
    details = {**part.result.details, "not_enough": dict.fromkeys(metrics, why)}
    return replace(part, result=EvalResult(metrics, details), official=None)


def _judged(
    model: AuditModel,
    item: Given,
    about: Mapping[str, Any],
    used: set[str],
    made: Sequence[Transform],
    settings: tuple[int, int, float, int],
) -> list[BaselineSuite]:
    """A suite on the images that were not fitted on; its headline numbers."""
    suite, data, files, own_about = item
    num, seed, level, min_items = settings
    if isinstance(data, SuiteData) and own_about == about:
        ids = column(data.source, "id").astype(str)
        data = take(data, np.flatnonzero([name not in used for name in ids.tolist()]))
    evaluate = measure(suite, data, files)
    base = audit_encode(model, own_about)
    found = [evaluate(base)]
    for change in made:
        gone: dict[str, None] = {}
        parts = evaluate(transformed(base, change, gone))
        found.append(
            {name: undefined(part, gone) if gone else part for name, part in parts.items()}
        )
    tables, names = [], list(found[0])
    for name in names:
        drawn: list[Resampled] = [
            resample(parts[name], num=min(num, MAX_DRAWS), seed=seed) for parts in found
        ]
        numbers = part_numbers(drawn, level=level, min_items=min_items)
        tables.append([number for number in numbers if number.headline])
    return [
        BaselineSuite(suite.name, suite.title, name, tuple(numbers))
        for name, numbers in zip(names, correct(tables), strict=True)
        if numbers
    ]
