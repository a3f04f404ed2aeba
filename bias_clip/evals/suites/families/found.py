"""Suites of who is found first: So-B-IT, Berg et al., neutral captions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.bias.skew import target_shares
from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import similarity, unit
from bias_clip.evals.resampling import (
    NOT_ENOUGH,
    Draws,
    centered,
    few_clusters,
    image_times,
    mean_draws,
    nan_mean,
    num_units,
    reflected,
)
from bias_clip.evals.suites.berg import TARGETS, berg, query_skews
from bias_clip.evals.suites.families.rankings import (
    affordable,
    first_codes,
    first_counts,
    ndkl_of_codes,
    skew_extremes,
    take_first,
)
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.layouts.word_files import read_berg_prompts, read_sobit_words
from bias_clip.evals.suites.measured import Draw, Evaluate, Measured, group_units, smallest
from bias_clip.evals.suites.sobit import sobit
from bias_clip.evals.suites.spec import Suite
from bias_clip.evals.suites.top_k import normalized_entropy


def sobit_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Entropy among the images nearest to each word, and C-ASC; a part per attribute."""
    words, k = read_sobit_words(Path(files["words"])), suite.options["k"]

    def evaluate(encode: Encode) -> dict[str, Measured]:
        images, texts = encode.images(data.source), encode.texts(words.prompts)
        scores = similarity(unit(texts, dtype=np.float64), unit(images, dtype=np.float64))
        found = {}
        for field, names in suite.groups.items():
            codes = data.codes[field]
            arguments = dict(names=names, categories=words.categories, k=k)
            result = sobit(images, texts, codes, **arguments)
            draw = _sobit_draws(scores, codes, names, words.categories, k, data.clusters)
            rows = result.details["words"]
            by_word = _by_category([row["entropy"] for row in rows], words.categories)
            casc = np.array([row["casc"] for row in rows], np.float64).reshape(len(rows), -1)
            by_word |= {f"casc_of_{n}": c for n, c in zip(names, casc.T, strict=True)}
            sizes = _casc_sizes(codes, names, data.clusters)
            found[field] = Measured(result, draw, _over(by_word), "words", sizes=sizes)
        return found

    return evaluate


def berg_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """MaxSkew, MinSkew, NDKL and Bias@K; a part per attribute. Prompts from a file, or the suite's."""
    if "prompts" in suite.needs:
        prompts: Sequence[str] = read_berg_prompts(Path(files["prompts"])).prompts
    else:
        prompts = [t.replace("{}", w) for t in suite.templates for w in suite.words["queries"]]
    ks = suite.options["ks"]

    def evaluate(encode: Encode) -> dict[str, Measured]:
        scores = similarity(encode.texts(prompts), encode.images(data.source))
        found = {}
        for field in suite.groups:
            codes = data.codes[field]
            own, theirs = (berg(scores, codes, ks=ks, official=o) for o in (False, True))
            by_query = query_skews(scores, codes, ks=ks)
            number = int(codes.max(initial=-1)) + 1
            least = smallest(group_units(codes, data.clusters, num_groups=number))
            draw = _berg_draws(scores, codes, by_query, ks, data.clusters)
            sizes = dict.fromkeys(by_query, least)
            found[field] = Measured(own, draw, _over(by_query), "prompts", theirs, sizes=sizes)
        return found

    return evaluate


def _over(values: Mapping[str, Float[np.ndarray, " q"]]) -> Draw:
    return lambda num, seed: mean_draws(values, num=num, seed=seed)


def _casc_sizes(
    codes: Int[np.ndarray, " n"],
    names: Sequence[str],
    clusters: Int[np.ndarray, " n"] | None,
) -> dict[str, int]:
    """Independent items behind C-ASC, which compares a group with all others."""
    found = {}
    for g, name in enumerate(names):
        sides = np.where(codes < 0, -1, (codes == g).astype(np.int64))
        # Without an image on one side C-ASC does not exist, which has a reason of its own.
        found[f"casc_of_{name}"] = smallest(group_units(sides, clusters, num_groups=2))
    return found | {"casc_max": min(found.values(), default=0)}


def _by_category(
    entropy: Sequence[float | None], categories: Sequence[str]
) -> dict[str, Float[np.ndarray, " w"]]:
    """The entropy of each word, and for each category with NaN at the words of the others."""
    values = np.array(entropy, np.float64)
    found = {"entropy": values}
    for category in dict.fromkeys(categories):
        own = np.array([c == category for c in categories])
        found[f"entropy_of_{category}"] = np.where(own, values, np.nan)
    return found


def _sobit_draws(
    scores: Float[np.ndarray, "w n"],
    codes: Int[np.ndarray, " n"],
    names: Sequence[str],
    categories: Sequence[str],
    k: int,
    clusters: Int[np.ndarray, " n"] | None,
) -> Draw:
    def draw(num: int, seed: int) -> Draws:
        w, n = scores.shape
        # Fewer resamples for many words, so that an audit stays at about ten seconds here.
        size = affordable(num, queries=w, k=k)
        times = image_times(n, num=size, seed=seed, clusters=clusters)
        entropy = np.full((size + 1, w), np.nan)
        every = np.ones((1, n), np.int32)
        for i, row in enumerate(scores):
            # The first row is of all images once; the resamples follow.
            for part, t in ((slice(0, 1), every), (slice(1, None), times)):
                counts = first_counts(take_first(row, t, k=min(k, n)), codes, num_names=len(names))
                entropy[part, i] = normalized_entropy(counts)
        whole, drawn = _split(_category_means(entropy, categories))
        notes = {}
        if n < 2 * k:
            # Then the first k are most of the set, and its resamples say nothing of a larger one.
            notes = dict.fromkeys(whole, f"{NOT_ENOUGH}: {n} images for a cut-off of {k}")
        units = num_units(n, clusters)
        result = centered(Draws(whole, drawn, units, notes))
        casc_whole, casc_drawn = _split(_casc_means(scores, codes, times, names))
        every_whole = result.whole | casc_whole
        notes |= few_clusters(clusters, every_whole)
        both = Draws(every_whole, result.drawn | casc_drawn, units, notes)
        return reflected(both, ("casc_max",))

    return draw


def _category_means(
    entropy: Float[np.ndarray, "r w"], categories: Sequence[str]
) -> dict[str, Float[np.ndarray, " r"]]:
    found = {"entropy": _row_means(entropy)}
    for category in dict.fromkeys(categories):
        own = np.array([c == category for c in categories])
        found[f"entropy_of_{category}"] = _row_means(entropy[:, own])
    return found


def _casc_means(
    scores: Float[np.ndarray, "w n"],
    codes: Int[np.ndarray, " n"],
    times: Int[np.ndarray, "r n"],
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, " r"]]:
    """C-ASC of each resample, from sums of scores and of their squares; mean over words."""
    known = codes >= 0
    s, own = scores[:, known].astype(np.float64), codes[known]
    s = s - s.mean(axis=1, keepdims=True)  # or a variance from sums of squares would cancel
    weights = np.concatenate([np.ones((1, int(known.sum()))), times[:, known]])
    number = weights.sum(axis=1, keepdims=True)
    total, square = weights @ s.T, weights @ (s.T**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (square - total**2 / number) / (number - 1)
        # Below it only rounding is left of scores that are all equal.
        deviation = np.sqrt(np.where(variance > 1e-18, variance, np.nan))
        found = {}
        for g, name in enumerate(names):
            mine = weights[:, own == g]
            count, inside = mine.sum(axis=1, keepdims=True), mine @ s[:, own == g].T
            # The group's mean minus that of the others, from sums alone.
            gap = inside / count - (total - inside) / (number - count)
            found[f"casc_of_{name}"] = _row_means(gap / deviation)
    table = np.abs(np.stack(list(found.values())))
    with np.errstate(invalid="ignore"):
        largest = np.where(np.isfinite(table), table, -np.inf).max(axis=0)
    found["casc_max"] = np.where(np.isfinite(largest), largest, np.nan)
    return found


def _berg_draws(
    scores: Float[np.ndarray, "q n"],
    codes: Int[np.ndarray, " n"],
    by_query: Mapping[str, Float[np.ndarray, " q"]],
    ks: Sequence[int],
    clusters: Int[np.ndarray, " n"] | None,
) -> Draw:
    known = codes >= 0
    own_clusters = None if clusters is None else clusters[known]
    names, groups = np.unique(codes[known], return_inverse=True)
    candidates, n = scores[:, known], int(known.sum())

    def draw(num: int, seed: int) -> Draws:
        fit = [k for k in ks if k <= n and len(names) > 1]
        size = affordable(num, queries=len(scores), k=max(fit, default=1))
        times = image_times(n, num=size, seed=seed, clusters=own_clusters)
        own = (groups[:, None] == np.arange(len(names))).astype(np.float64)
        even = target_shares(groups, "uniform") if n else np.zeros(1)
        # The shares of the data change with each resample; even shares do not.
        targets = {
            "even": np.tile(even, (size, 1)),
            "share": times @ own / np.maximum(times.sum(axis=1, keepdims=True), 1),
        }
        sums: dict[str, list[np.ndarray]] = {}
        for row in candidates:
            for k in fit:
                for key, v in _ranked_values(row, times, groups, targets, k).items():
                    sums.setdefault(f"{key}_{k}", []).append(v)
        whole = {key: nan_mean(v) for key, v in by_query.items()}
        drawn = {key: _row_means(np.stack(v, axis=1)) for key, v in sums.items()}
        drawn |= {key: np.full(size, np.nan) for key in whole if key not in drawn}
        notes = {
            key: f"{NOT_ENOUGH}: {n} images for a cut-off of {k}, at least {2 * k} are needed"
            for key in whole
            for k in ks
            if key.endswith(f"_{k}") and n < 2 * k
        }
        notes |= few_clusters(own_clusters, whole)
        return centered(Draws(whole, drawn, num_units(n, own_clusters), notes))

    return draw


def _ranked_values(
    scores: Float[np.ndarray, " n"],
    times: Int[np.ndarray, "r n"],
    groups: Int[np.ndarray, " n"],
    targets: Mapping[str, Float[np.ndarray, "r g"]],
    k: int,
) -> dict[str, Float[np.ndarray, " r"]]:
    """Skews, NDKL and Bias@k of one query in each resample; NaN in those with fewer than k images.

    Clusters differ in size, so that a resample of the small ones may be too small for the cut-off.
    """
    full = times.sum(axis=1) >= k
    num_names = int(groups.max()) + 1
    taken = take_first(scores, times[full], k=k)
    counts = first_counts(taken, groups, num_names=num_names)
    ranked = first_codes(taken, groups, k=k)
    found: dict[str, np.ndarray] = {}
    for target in TARGETS:
        shares = targets[target][full]
        high, low = skew_extremes(counts, shares)
        found |= {f"maxskew_{target}": high, f"minskew_{target}": low}
        found[f"ndkl_{target}"] = ndkl_of_codes(ranked, shares)
    if num_names == 2:
        found["bias"] = (counts[:, 0] - counts[:, 1]) / k
    every = {key: np.full(len(times), np.nan) for key in found}
    for key, values in found.items():
        every[key][full] = values
    return every


def _row_means(values: Float[np.ndarray, "r q"]) -> Float[np.ndarray, " r"]:
    some = np.isfinite(values)
    return np.where(some, values, 0).sum(axis=1) / np.where(
        some.any(axis=1), some.sum(axis=1), np.nan
    )


def _split(
    table: Mapping[str, Float[np.ndarray, " r"]],
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " q"]]]:
    """The first entry, of all images, and the others, of the resamples."""
    return {k: float(v[0]) for k, v in table.items()}, {k: v[1:] for k, v in table.items()}
