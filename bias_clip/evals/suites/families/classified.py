"""Suites that classify images: zero-shot, fairness by group, worst group. Draws are of sums."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.evals.encode import Encode
from bias_clip.evals.prompts import prompt_embeddings, word_prompts
from bias_clip.evals.quality.zeroshot import class_embeddings
from bias_clip.evals.ranking import best_ranks, row_blocks, score_ranks, unit
from bias_clip.evals.resampling import Draws, Named, kind_draws, reflected, sum_draws
from bias_clip.evals.suites.clip_benchmark import classify_multilabel, classify_ranks
from bias_clip.evals.suites.fairness import (
    GENDERS,
    OBJECTIVES,
    RACE_BINARY,
    fairness,
    fairness_outcomes,
    objective_predictions,
)
from bias_clip.evals.suites.families.multilabel import multilabel_draws
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.tables import group_product
from bias_clip.evals.suites.measured import (
    Draw,
    Evaluate,
    Measured,
    exact_hits,
    group_units,
    smallest,
)
from bias_clip.evals.suites.spec import Suite
from bias_clip.evals.suites.worst_group import worst_group

TEMPLATE_IMAGES = 2000  # judged again under each resample of the templates
TEMPLATE_DRAWS = 100
RESAMPLES_TOGETHER = 10
ROWS_TOGETHER = 8192  # images whose embeddings are in float64 at the same time


def zeroshot_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Accuracy among class names: of CLIP_benchmark's layout, or of a column of labels."""
    if "" not in data.classes:
        raise ValueError(
            f"the suite {suite.name!r} needs a data set of classes; this one has the objectives "
            f"{list(data.classes)}: see the suites fairface_datacomp and retrieval_coco."
        )
    texts = word_prompts(data.classes[""], data.templates[""])

    def evaluate(encode: Encode) -> dict[str, Measured]:
        images = encode.images(data.source)
        flat = encode.texts([text for own in texts for text in own])
        prompts = flat.reshape(len(texts), len(texts[0]), -1)
        if data.labels is None:
            labels = data.codes["label"]
            return {"all": measure_zeroshot(images, prompts, labels, clusters=data.clusters)}
        own, theirs = (
            classify_multilabel(images, prompts, data.labels, official=official)
            for official in (False, True)
        )
        draw = multilabel_draws(images, prompts, data.labels)
        return {"all": Measured(own, draw, official=theirs)}

    return evaluate


def measure_zeroshot(
    images: Float[np.ndarray, "n d"],
    prompts: Float[np.ndarray, "c t d"],
    labels: Int[np.ndarray, " n"],
    *,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Measured:
    """Accuracy at 1 and 5 and recall by class, with draws over images and over templates.

    Keeps the rank of each image's class, and no score. Templates are resampled on at most
    `TEMPLATE_IMAGES` images, because each resample is a classifier of its own.
    """
    c, t = prompts.shape[:2]
    # In parts: prompts in float64 would take as much memory again, twice.
    parts = [class_embeddings(p, dtype=np.float64) for p in np.array_split(prompts, min(c, 16))]
    zcls = np.concatenate(parts)
    ranks = np.concatenate(
        [
            best_ranks(
                unit(images[b], dtype=np.float64), zcls, np.arange(len(labels[b])), labels[b]
            )
            for b in row_blocks(len(images), c, ROWS_TOGETHER)
        ]
    )
    result = classify_ranks(ranks, labels, num_classes=c)
    # 0: wrong, 1: among five, 2: right, of each class.
    kinds = 3 * labels + np.where(ranks == 0, 2, np.where(ranks < 5, 1, 0))

    def value(counts: Float[np.ndarray, "b u"]) -> Named:
        return _shares(counts.reshape(len(counts), c, 3), c)

    def draw(num: int, seed: int) -> Draws:
        return kind_draws(kinds, value, num_kinds=3 * c, num=num, seed=seed, clusters=clusters)

    def draw_texts(num: int, seed: int) -> Draws:
        return _template_draws(images, prompts, labels, result.metrics, num, seed)

    return Measured(
        result,
        draw,
        draw_texts if t > 1 else None,
        "templates",
        hits=exact_hits({"acc1": ranks == 0} | ({"acc5": ranks < 5} if c >= 5 else {}), clusters),
    )


def fairness_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Race, gender, age and harmful names of DataComp; one template per objective."""
    classes = data.classes or suite.classes
    metadata = np.stack([data.codes[c] for c in ("age", "gender", "race", "race_binary")], axis=1)
    races = suite.groups["race"]
    sizes = _fairness_sizes(metadata, races, data.clusters)

    def evaluate(encode: Encode) -> dict[str, Measured]:
        texts = {
            name: prompt_embeddings(encode, word_prompts(classes[name], [suite.prompts[name]]))
            for name in OBJECTIVES
        }
        found = objective_predictions(encode.images(data.source), texts)
        own, theirs = (
            fairness(found, metadata, races=races, official=official) for official in (False, True)
        )
        hits = fairness_outcomes(found, metadata)
        right = {key: hits[key] for key in ("race", "gender", "age")}
        draw = _fairness_draws(hits, metadata, races, data.clusters)
        tested = exact_hits(right, data.clusters)
        return {"all": Measured(own, draw, official=theirs, hits=tested, sizes=sizes)}

    return evaluate


def worst_group_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Accuracy of the worst group: of a column, or of the product of label and attribute."""
    options = suite.options
    # Groups of one column, or the product of two, such as label and background.
    if "by" in options:
        groups = data.codes[options["by"]]
        number = int(groups.max()) + 1
        names = data.names.get(options["by"]) or tuple(
            f"{options['by']} {i}" for i in range(number)
        )
        classes, templates, labels = data.classes[""], data.templates[""], data.codes["label"]
    else:
        first, second = suite.groups
        groups, names = group_product(data, first, second)
        classes, templates, labels = suite.classes[first], suite.templates, data.codes[first]
    prompts, top = word_prompts(classes, templates), options.get("top", 1)
    sizes = _group_sizes("acc", names, groups, data.clusters)
    arguments = dict(
        names=names, chance=min(1.0, top / len(classes)), train_counts=options.get("train_counts")
    )

    def evaluate(encode: Encode) -> dict[str, Measured]:
        z, zcls = encode.images(data.source), prompt_embeddings(encode, prompts)
        hits = best_ranks(z, zcls, np.arange(len(labels)), labels) < top
        own = worst_group(hits, groups, **arguments)
        theirs = worst_group(hits, groups, **arguments, official=True)
        draw = _group_draws(hits, groups, names, options.get("train_counts"), data.clusters)
        tested = exact_hits({"acc": hits}, data.clusters)
        return {"all": Measured(own, draw, official=theirs, hits=tested, sizes=sizes)}

    return evaluate


def _shares(by_class: Float[np.ndarray, "b c 3"], num_classes: int) -> Named:
    of_class = by_class.sum(axis=2)
    total = of_class.sum(axis=1)
    recall = by_class[:, :, 2] / of_class
    there = of_class > 0
    return {
        "acc1": by_class[:, :, 2].sum(axis=1) / total,
        # Kinds 1 and 2 are among the five.
        "acc5": by_class[:, :, 1:].sum(axis=(1, 2)) / total if num_classes >= 5 else total * np.nan,
        "class_recall": np.where(there, recall, 0).sum(axis=1) / there.sum(axis=1),
    }


def _template_draws(
    z: Float[np.ndarray, "n d"],
    prompts: Float[np.ndarray, "c t d"],
    labels: Int[np.ndarray, " n"],
    metrics: Mapping[str, float],
    num: int,
    seed: int,
) -> Draws:
    """Draws of the classifier of resampled templates, moved to the values of all images."""
    c, t, _ = prompts.shape
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(labels))[:TEMPLATE_IMAGES]
    some, own = unit(z[rows]), labels[rows]
    # The first is of all templates once: what the others are compared with.
    often = [np.ones(t), *rng.multinomial(t, np.full(t, 1 / t), size=min(num, TEMPLATE_DRAWS))]
    pieces: list[Named] = []
    for zcls in _resampled_classes(prompts, np.stack(often) / t):
        ranks = score_ranks(some @ zcls.T, np.arange(len(rows)), own)
        kinds = 3 * own + np.where(ranks == 0, 2, np.where(ranks < 5, 1, 0))
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = np.bincount(kinds, minlength=3 * c)[None].astype(np.float64)
            pieces.append(_shares(counts.reshape(1, c, 3), c))
    drawn = {k: np.array([float(p[k][0]) for p in pieces]) for k in pieces[0]}
    whole = {key: metrics[key] for key in drawn}
    # Judged on part of the images, so only the deviation is used, added to the value of all images.
    return Draws(whole, {k: whole[k] + v[1:] - v[0] for k, v in drawn.items()}, t, {})


def _resampled_classes(
    prompts: Float[np.ndarray, "c t d"], shares: Float[np.ndarray, "r t"]
) -> Iterator[Float[np.ndarray, "c d"]]:
    """The class embeddings of each resample of the templates.

    Prompts are read once for several resamples, and their lengths go into the shares: a copy of unit
    length would be as large as all prompts.
    """
    length = np.sqrt(np.einsum("ctd,ctd->ct", prompts, prompts, dtype=np.float32))
    inverse = 1 / np.where(length > 0, length, 1)
    for start in range(0, len(shares), RESAMPLES_TOGETHER):
        times = shares[start : start + RESAMPLES_TOGETHER]
        weights = (times[None] * inverse[:, None]).astype(np.float32)
        yield from np.swapaxes(unit(weights @ prompts), 0, 1)


def _fairness_draws(
    outcomes: Mapping[str, Bool[np.ndarray, " n"]],
    metadata: Int[np.ndarray, "n 4"],
    races: Sequence[str],
    clusters: Int[np.ndarray, " n"] | None,
) -> Draw:
    splits = _fairness_splits(metadata, races)
    columns: dict[str, np.ndarray] = {}
    for name, (groups, codes) in splits.items():
        # The gender is judged twice: by white and other, and by race and gender.
        values = outcomes["gender" if name == "gender_by_race" else name]
        for i, group in enumerate(groups):
            columns[f"{name}/hit/{group}"] = (codes == i) & values
            columns[f"{name}/all/{group}"] = codes == i

    def value(t: Named) -> Named:
        found: dict[str, np.ndarray] = {}
        for name, (groups, _) in splits.items():
            hits = np.stack([t[f"{name}/hit/{group}"] for group in groups])
            number = np.stack([t[f"{name}/all/{group}"] for group in groups])
            means = hits / number
            found[name] = hits.sum(axis=0) / number.sum(axis=0)
            harm = name in ("crime", "nonhuman")
            # Of accuracies the lowest is the worst, of harmful rates the highest.
            found[f"{name}_worst"] = _extreme(means, highest=harm)
            found |= {f"{name}_of_{g}": m for g, m in zip(groups, means, strict=True)}
        return found

    worst = [f"{name}_worst" for name in splits]
    return lambda num, seed: reflected(
        sum_draws(columns, value, num=num, seed=seed, clusters=clusters), worst
    )


def _fairness_splits(
    metadata: Int[np.ndarray, "n 4"], races: Sequence[str]
) -> dict[str, tuple[Sequence[str], Int[np.ndarray, " n"]]]:
    """The groups by which each number of `fairness` is split: their names and the codes of the images."""
    gender, race, binary = metadata[:, 1], metadata[:, 2], metadata[:, 3]
    cells = [f"{r}_{g}" for r in races for g in GENDERS]
    return {
        **dict.fromkeys(("race", "gender", "age"), (RACE_BINARY, binary)),
        "gender_by_race": (cells, 2 * race + gender),
        **dict.fromkeys(("crime", "nonhuman"), (races, race)),
    }


def _fairness_sizes(
    metadata: Int[np.ndarray, "n 4"], races: Sequence[str], clusters: Int[np.ndarray, " n"] | None
) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, (groups, codes) in _fairness_splits(metadata, races).items():
        found |= _group_sizes(name, groups, codes, clusters)
    return found


def _group_draws(
    hits: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    names: Sequence[str],
    train_counts: Sequence[int] | None,
    clusters: Int[np.ndarray, " n"] | None,
) -> Draw:
    columns: dict[str, np.ndarray] = {"hit": hits, "all": np.ones(len(hits))}
    for i, name in enumerate(names):
        columns |= {f"hit/{name}": (groups == i) & hits, f"all/{name}": groups == i}

    def value(t: Named) -> Named:
        means = np.stack([t[f"hit/{name}"] / t[f"all/{name}"] for name in names])
        worst, best = _extreme(means, highest=False), _extreme(means, highest=True)
        found = {"acc": t["hit"] / t["all"], "acc_worst": worst, "acc_range": best - worst}
        if train_counts is not None:
            # [groups, resamples]: weights of the groups that a resample has.
            w = np.where(np.isfinite(means), np.asarray(train_counts, np.float64)[:, None], 0)
            found["acc_adjusted"] = np.where(w > 0, means * w, 0).sum(axis=0) / w.sum(axis=0)
        return found | {f"acc_of_{n}": m for n, m in zip(names, means, strict=True)}

    folded = ("acc_worst", "acc_range")
    return lambda num, seed: reflected(
        sum_draws(columns, value, num=num, seed=seed, clusters=clusters), folded
    )


def _extreme(means: Float[np.ndarray, "g b"], *, highest: bool) -> Float[np.ndarray, " b"]:
    """The best or worst of the groups that exist; NaN if none does."""
    empty = ~np.isfinite(means)
    filled = np.where(empty, -np.inf if highest else np.inf, means)
    found = filled.max(axis=0) if highest else filled.min(axis=0)
    return np.where(empty.all(axis=0), np.nan, found)


def _group_sizes(
    number: str,
    names: Sequence[str],
    groups: Int[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"] | None,
) -> dict[str, int]:
    """Independent items behind a number of each group, its worst group and its range."""
    units = group_units(groups, clusters, num_groups=len(names))
    found = {f"{number}_of_{name}": int(u) for name, u in zip(names, units, strict=True)}
    return found | dict.fromkeys((f"{number}_worst", f"{number}_range"), smallest(units))
