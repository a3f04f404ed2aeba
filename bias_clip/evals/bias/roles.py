"""Representation and association bias: whom does the model see in neutral images, and in which role?

All signs are groups[1] minus groups[0]: man minus woman, dark minus light.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.data.sources import Source, column
from bias_clip.evals.bias.role_prompts import (
    ATTRIBUTES,
    Attribute,
    make_prompts,
    role_words,
    words_for,
)
from bias_clip.evals.bias.scores import (
    association_gaps,
    pair_gaps,
    preference,
    preference_probability,
    share,
)
from bias_clip.evals.encode import Encode
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.quality.zeroshot import class_embeddings
from bias_clip.evals.results import EvalResult, or_none

DESCRIPTION = Description(
    "bias",
    "Representation: share of neutral images nearer to {second} than to {first} (95\u202f%: "
    "{preference_low} to {preference_high}); the model tells the two apart in {recognition} of "
    "images. Association: how far the recognition of a role differs between them.",
    {
        "preference": Metric(
            "nearer to {second}, in a role",
            "share",
            headline=True,
            even=0.5,
            chart="preference",
            short="nearer to {second}",
        ),
        "association_mean": Metric(
            "gap between the groups, mean over roles",
            "points",
            "lower",
            True,
            "association_chance",
            chart="gap",
            short="mean gap over roles",
        ),
        "representation": Metric("representation bias, in a role", "points", "lower", even=0.0),
        "preference_low": Metric(
            "nearer to {second}, in a role, lower end of the 95 % interval", "share"
        ),
        "preference_high": Metric(
            "nearer to {second}, in a role, upper end of the 95 % interval", "share"
        ),
        "preference_probability": Metric("nearer to {second}, mean probability", "share", even=0.5),
        "preference_plain": Metric(
            "nearer to {second}, no role named",
            "share",
            even=0.5,
            chart="preference",
            short="no role named",
        ),
        "preference_objects": Metric(
            "nearer to {second}, nobody shown",
            "share",
            even=0.5,
            chart="preference",
            short="nobody shown",
        ),
        "representation_objects": Metric(
            "representation bias, nobody shown", "points", "lower", even=0.0
        ),
        "recognition": Metric(
            "group recognised", "share", "higher", chart="recognition", short="group"
        ),
        "association_max": Metric("gap between the groups, largest", "points", "lower", even=0.0),
        "association_chance": Metric("gap between the groups, by chance", "points"),
        "association_signed": Metric(
            "gap between the groups, signed mean", "signed points", even=0.0
        ),
        "association_probability": Metric(
            "gap in probability, mean over roles", "points", "lower", even=0.0
        ),
        "association_recall": Metric(
            "role recognised", "share", "higher", chart="recognition", short="role"
        ),
        "association_roles": count("roles counted"),
        "association_excluded": count("roles with too few images"),
        "pairs_mean": Metric("gap over pairs of roles, mean", "points", "lower", even=0.0),
        "pairs_max": Metric("gap over pairs of roles, largest", "points", "lower", even=0.0),
        "pairs_images": count("images of people outside any role"),
        "stereotype_preference": Metric(
            "preference that follows the stereotype",
            "signed points",
            even=0.0,
            chart="stereotype",
            short="preference",
        ),
        "stereotype_gap": Metric(
            "gap that follows the stereotype",
            "signed points",
            even=0.0,
            chart="stereotype",
            short="gap",
        ),
    },
)


def make_bias(
    source: Source,
    *,
    attribute: str | Attribute = "gender",
    neutral_templates: Sequence[str] = ("{role}", "{a_role}"),
    names: str | None = "name",
    pairs: Sequence[tuple[str, str]] | None = None,
    stereotypes: Sequence[Sequence[str]] | None = None,
    scale: float = 20.0,
    min_count: int = 5,
    seed: int = 0,
) -> Callable[[Encode], EvalResult]:
    """Returns `evaluate(encode)`: bias by gender or skin tone on emoji of roles.

    Gender is the *presented* sign of the emoji, tone its Fitzpatrick modifier (default yellow is
    neutral). The source needs the columns concept, role (1: a person in a role), gender and tone.

    Representation, from images that show neither group:
      preference (with _low, _high): share that prefers "man <role>" to "woman <role>", on neutral
        images of roles. representation = |preference - 1/2|. preference_probability: the mean
        softmax at `scale`. preference_plain: "man" against "woman" on the same images.
      preference_objects, representation_objects: "man" to "woman" on images without a person.
      recognition: share of each group's images that prefer the prompt of their group, averaged over
        the groups. At 1/2 the model cannot distinguish them, and the other numbers mean nothing.
    Association, from images of the two groups:
      association_mean, _max: mean and maximum of |gap| over roles (see `association_gaps`).
        association_chance: the mean without bias. association_signed: the mean gap.
        association_probability: mean |gap| of probabilities at `scale`. association_recall: share of
        images whose role is recognised, which bounds the gaps. association_roles,
        association_excluded: number of roles with and without `min_count` images in each group.
      pairs_mean, pairs_max: mean and maximum of |gap| over pairs of roles (see `pair_gaps`), on
        images of people outside any role, where the model has no reason to prefer one.
        pairs_images: number of these images.
    With `stereotypes`, because a mean over all roles loses the sign:
      stereotype_preference, stereotype_gap: the mean preference and gap over the roles that the
        stereotype gives to groups[1], minus the mean over those of groups[0]. 0 for a model without
        stereotypes, whatever it prefers overall; 1 for one that knows nothing else.

    Args:
      source: images.
      attribute: a name in `ATTRIBUTES`, or an `Attribute` of your own.
      neutral_templates: strings that name neither group. {concept} is the value of that column
        ("judge", "golfing"), {role} the word for a person in the role ("judge", "person golfing"),
        and {a_role} the same with an article.
      names: column with {role} for a person of no group and tone 0. Without such a record, or for
        None, {role} is the concept.
      pairs: pairs of role names, such as (("nurse", "doctor"),); None for all pairs of roles.
      stereotypes: two lists of roles, spelt as in `concept`: those that a stereotype, or a thinning
        of the training data, gives to groups[0], and those that it gives to groups[1].
      scale: scale of every softmax here, fixed so that models with different scales compare.
      min_count: images that a group needs for a role, or for the pairs, to count.
      seed: seed of association_chance.

    Raises:
      ValueError: an unknown attribute, a missing column, or no image of a role or of a stereotype.

    Reference:
      Alabdulmohsin et al.: CLIP the Bias: How Useful is Balancing Data in Multimodal Learning?,
      2024. The metrics have the form of later papers by the same authors (shares by prompt
      preference). Gaps per role by recognition, and association_chance, are this project's.
    """
    spec = _attribute(attribute)
    # All texts are fixed before any checkpoint is seen, so a run's evaluations differ in the model alone.
    columns = _columns(source, spec)
    roles = np.unique(columns.concept[columns.in_role]).tolist()
    pairs = list(itertools.combinations(roles, 2)) if pairs is None else pairs
    paired = list(dict.fromkeys(name for pair in pairs for name in pair))
    # Rows and columns of the matrix that `pair_gaps` gives.
    chosen = [(paired.index(a), paired.index(b)) for a, b in pairs]
    sides = None if stereotypes is None else _sides(stereotypes, roles)
    words = {name: words_for(name, name) for name in paired} | role_words(source, roles, names)
    prompts = make_prompts(
        spec, [words[r] for r in roles], neutral_templates, [words[p] for p in paired]
    )

    def evaluate(encode: Encode) -> EvalResult:
        zimg = encode.images(source)
        z = {key: _embed(encode, texts) for key, texts in prompts.items()}
        metrics, preferred = _representation(zimg, z, columns, roles, scale)
        of_roles, gaps = _association(zimg, z, columns, roles, scale, min_count, seed)
        metrics |= of_roles | _pairs(zimg, z["pairs"], columns, chosen, min_count)
        concepts = _concepts(roles, columns, preferred, gaps)
        if sides is not None:
            metrics |= _stereotypes(concepts, sides)
        details = {
            "kind": "bias",
            "attribute": spec.column,
            "groups": list(spec.groups),
            "representation": or_none(metrics["preference"]),
            "scale": float(scale),
            "concepts": concepts,
        }
        return EvalResult(metrics, details)

    return evaluate


class _Columns(NamedTuple):
    concept: np.ndarray
    in_role: Bool[np.ndarray, " n"]
    neutral: Bool[np.ndarray, " n"]  # a person of neither group
    group: Int[np.ndarray, " n"]  # 0 or 1; -1 for neither
    nobody: Bool[np.ndarray, " n"]


def _attribute(attribute: str | Attribute) -> Attribute:
    if isinstance(attribute, Attribute):
        return attribute
    if attribute not in ATTRIBUTES:
        raise ValueError(f"attribute={attribute!r}; expected one of {sorted(ATTRIBUTES)}.")
    return ATTRIBUTES[attribute]


def _columns(source: Source, spec: Attribute) -> _Columns:
    value, gender, tone = (column(source, name) for name in (spec.column, "gender", "tone"))
    somebody = gender != "none"
    # Things have roles too (a robot cook), but no group, so no bias can be measured on them.
    in_role = (column(source, "role") == 1) & somebody
    if not in_role.any():
        raise ValueError("no record has role == 1; bias is measured on people in roles.")
    group = np.full(len(value), -1)
    for i in (0, 1):
        group[np.isin(value, spec.values[i]) & somebody] = i
    neutral = np.isin(value, spec.neutral) & somebody
    return _Columns(column(source, "concept"), in_role, neutral, group, ~somebody & (tone == 0))


def _embed(encode: Encode, classes: Sequence[Sequence[str]]) -> Float[np.ndarray, "c d"]:
    if not classes:
        return np.zeros((0, 1), np.float32)
    # All texts in one call, then [classes, templates, d].
    z = encode.texts([text for texts in classes for text in texts])
    return class_embeddings(z.reshape(len(classes), len(classes[0]), -1))


def _representation(
    zimg: np.ndarray, z: Mapping[str, np.ndarray], columns: _Columns, roles: list[str], scale: float
) -> tuple[dict[str, float], Float[np.ndarray, " n"]]:
    """The metrics, and the preference of each image (NaN unless it is neutral and in a role)."""
    role = np.searchsorted(roles, columns.concept)
    # [roles, 2 groups, d], in the order in which `make_prompts` lists them.
    in_role = z["in_role"].reshape(len(roles), 2, -1)

    def plain(rows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(z["plain"], (int(rows.sum()), *z["plain"].shape))

    asked = columns.in_role & columns.neutral
    preferred = np.full(len(zimg), np.nan)
    preferred[asked] = preference(zimg[asked], in_role[role[asked]])
    probability = preference_probability(zimg[asked], in_role[role[asked]], scale=scale)
    main = share(preferred[asked])
    # Images without people: what remains here is the prompts' own pull, which no image caused.
    objects = share(preference(zimg[columns.nobody], plain(columns.nobody))).value
    own = []
    for i in (0, 1):
        rows = columns.in_role & (columns.group == i)
        # Recognition: towards the group that the image shows, so group 0 counts the other way round.
        towards = share(preference(zimg[rows], in_role[role[rows]])).value
        own.append(towards if i else 1 - towards)
    metrics = {
        "preference": main.value,
        "preference_low": main.low,
        "preference_high": main.high,
        "preference_probability": share(probability).value,
        "preference_plain": share(preference(zimg[asked], plain(asked))).value,
        "preference_objects": objects,
        "representation": abs(main.value - 0.5),
        "representation_objects": abs(objects - 0.5),
        "recognition": sum(own) / 2,
    }
    return metrics, preferred


def _association(
    zimg: np.ndarray,
    z: Mapping[str, np.ndarray],
    columns: _Columns,
    roles: list[str],
    scale: float,
    min_count: int,
    seed: int,
) -> tuple[dict[str, float], Float[np.ndarray, " k"]]:
    rows = columns.in_role & (columns.group >= 0)
    gaps = association_gaps(
        zimg[rows],
        z["neutral"],
        np.searchsorted(roles, columns.concept[rows]),
        columns.group[rows],
        scale=scale,
        min_count=min_count,
        seed=seed,
    )
    mean, largest = _mean_max(gaps.gap)
    counted = int(np.isfinite(gaps.gap).sum())
    metrics = {
        "association_mean": mean,
        "association_max": largest,
        "association_chance": gaps.by_chance,
        "association_signed": float(np.nanmean(gaps.gap)) if counted else float("nan"),
        "association_probability": _mean_max(gaps.probability)[0],
        "association_recall": gaps.recall,
        "association_roles": float(counted),
        "association_excluded": float(len(roles) - counted),
    }
    return metrics, gaps.gap


def _pairs(
    zimg: np.ndarray,
    zroles: np.ndarray,
    columns: _Columns,
    chosen: Sequence[tuple[int, int]],
    min_count: int,
) -> dict[str, float]:
    # People outside any role: no prompt of a pair is true of them, so a preference is an association.
    rows = ~columns.in_role & (columns.group >= 0)
    counts = np.bincount(columns.group[rows], minlength=2)
    gaps = np.full(0, np.nan)
    if counts.min() >= min_count and chosen:
        # The transposed list of pairs is an index of rows and one of columns.
        gaps = pair_gaps(zimg[rows], zroles, columns.group[rows])[tuple(np.transpose(chosen))]
    mean, largest = _mean_max(gaps)
    return {"pairs_mean": mean, "pairs_max": largest, "pairs_images": float(rows.sum())}


def _sides(
    stereotypes: Sequence[Sequence[str]], roles: Sequence[str]
) -> tuple[Bool[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
    """For each role, whether it is in the first list, and whether it is in the second."""
    if len(stereotypes) != 2 or set(stereotypes[0]) & set(stereotypes[1]):
        raise ValueError(
            f"stereotypes: got {stereotypes}; expected two lists with no role in both."
        )
    first, second = (np.isin(roles, list(side)) for side in stereotypes)
    if not (first.any() and second.any()):
        raise ValueError(f"stereotypes: a list has no role of the source; those are {list(roles)}.")
    return first, second


def _stereotypes(
    concepts: Sequence[Mapping[str, Any]], sides: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    metrics = {}
    for key in ("preference", "gap"):
        # None is JSON's form of NaN: a role with too few images is in no mean.
        values = np.array([np.nan if row[key] is None else row[key] for row in concepts])
        means = [_mean(values[side]) for side in sides]
        metrics[f"stereotype_{key}"] = means[1] - means[0]
    return metrics


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _mean_max(gaps: np.ndarray) -> tuple[float, float]:
    sizes = np.abs(gaps[np.isfinite(gaps)])
    return (float(sizes.mean()), float(sizes.max())) if len(sizes) else (np.nan, np.nan)


def _concepts(
    roles: Sequence[str], columns: _Columns, preferred: np.ndarray, gaps: np.ndarray
) -> list[dict[str, Any]]:
    """The rows of the report, one per role; `count` is the number of images behind the row."""
    rows = []
    for role, gap in zip(roles, gaps, strict=True):
        here = columns.in_role & (columns.concept == role)
        neutral = share(preferred[here & columns.neutral])
        rows.append(
            {
                "name": role,
                "preference": or_none(neutral.value),
                "low": or_none(neutral.low),
                "high": or_none(neutral.high),
                "gap": or_none(gap),
                "count": int((here & (columns.neutral | (columns.group >= 0))).sum()),
            }
        )
    return rows
