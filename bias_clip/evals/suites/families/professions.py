"""Suites of professions: SISPI and VisoGender. Images are resampled within their profession."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.encode import Encode
from bias_clip.evals.ranking import similarity, unit
from bias_clip.evals.resampling import Draws, Named, centered, mean_draws, nan_mean, sum_draws
from bias_clip.evals.suites.families.multilabel import weighted_precision
from bias_clip.evals.suites.families.rankings import ndkl_of_codes, skew_extremes
from bias_clip.evals.suites.layouts.data import SuiteData
from bias_clip.evals.suites.measured import Draw, Evaluate, Measured, group_units
from bias_clip.evals.suites.sispi import ETHNICITIES, FIELDS, People, sispi
from bias_clip.evals.suites.spec import Suite
from bias_clip.evals.suites.visogender import (
    occupation_skews,
    pronoun_choices,
    visogender_resolution,
    visogender_retrieval,
)
from bias_clip.evals.suites.visogender_run import Scores, make_visogender

MAX_DRAWS = 300  # of whole rankings


def sispi_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """NDKL among the images of a profession, nDCG and average precision among all."""
    names = data.names["profession"]
    own = tuple(names[i] for i in data.codes["profession"])
    people = People(own, data.codes["gender"], data.codes["ethnicity"])
    prompts = [suite.templates[0].replace("{}", name) for name in names]

    def evaluate(encode: Encode) -> dict[str, Measured]:
        images, texts = encode.images(data.source), encode.texts(prompts)
        found, theirs = (
            sispi(images, texts, people, professions=names, official=official)
            for official in (False, True)
        )
        rows = found.details["professions"]
        keys = ("ndcg", "ap", *(f"ndkl_{field}" for field in FIELDS))
        by_name = {key: np.array([row[key] for row in rows], np.float64) for key in keys}
        scores = similarity(unit(texts, dtype=np.float64), unit(images, dtype=np.float64))
        draw = _sispi_draws(scores, data.codes["profession"], people, by_name)
        return {"all": Measured(found, draw, _over(by_name), "professions", theirs)}

    return evaluate


def visogender_family(suite: Suite, path: Path) -> Evaluate:
    """Resolution of pronouns, and retrieval by occupation."""
    read, ks = make_visogender(suite, path), tuple(suite.options["ks"])

    def evaluate(encode: Encode) -> dict[str, Measured]:
        s = read(encode)
        arguments = (s.one, s.one_gender, s.two, s.two_gender, s.other_gender)
        found, theirs = (visogender_resolution(*arguments, official=o) for o in (False, True))
        lists = [scores for scores, _ in s.by_occupation], [g for _, g in s.by_occupation]
        skews, official = (visogender_retrieval(*lists, ks=ks, official=o) for o in (False, True))
        by_name = _occupation_values(*lists, ks)
        draw, sizes = _resolution_draws(s), _resolution_sizes(s)
        return {
            "resolution": Measured(found, draw, official=theirs, sizes=sizes),
            "retrieval": Measured(
                skews,
                _occupation_draws(*lists, by_name, ks),
                _over(by_name),
                "occupations",
                official,
            ),
        }

    return evaluate


def _over(values: Mapping[str, Float[np.ndarray, " q"]]) -> Draw:
    return lambda num, seed: mean_draws(values, num=num, seed=seed)


def _sispi_draws(
    scores: Float[np.ndarray, "p n"],
    professions: Int[np.ndarray, " n"],
    people: People,
    by_name: Mapping[str, Float[np.ndarray, " p"]],
) -> Draw:
    codes = {"gender": people.gender, "ethnicity": people.ethnicity}
    codes["both"] = people.gender * len(ETHNICITIES) + people.ethnicity

    def draw(num: int, seed: int) -> Draws:
        size, rng, n = min(num, MAX_DRAWS), np.random.default_rng(seed), len(professions)
        parts: dict[str, list[np.ndarray]] = {key: [] for key in by_name}
        for p, row in enumerate(scores):
            own = np.flatnonzero(professions == p)
            order = np.argsort(-row, kind="stable")
            hit = (professions[order] == p).astype(np.float64)
            picked = np.sort(rng.integers(0, len(own), (size, len(own))), axis=1)
            # Images of other professions stand once; only the own ones are resampled.
            times = np.ones((size, n), np.int64)
            places = np.flatnonzero(hit)  # ranks of the own images among all
            np.put_along_axis(times, places[None], 0, axis=1)
            for r in range(size):
                times[r, places] = np.bincount(picked[r], minlength=len(own))
            parts["ap"].append(weighted_precision(times, hit))
            parts["ndcg"].append(_weighted_dcg(times, hit))
            mine = order[places]
            for field, number in FIELDS.items():
                even = np.full((size, number), 1 / number)
                parts[f"ndkl_{field}"].append(ndkl_of_codes(codes[field][mine][picked], even))
        whole = {key: nan_mean(v) for key, v in by_name.items()}
        drawn = {key: np.mean(v, axis=0) for key, v in parts.items()}
        return centered(Draws(whole, drawn, n, {}))

    return draw


def _weighted_dcg(
    times: Int[np.ndarray, "r n"], hit: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " r"]:
    """nDCG of rankings in which the image at rank i stands times_i times."""
    end = np.cumsum(times, axis=1)
    gains = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(1, end.max() + 1) + 1))])
    # Copies of an image take consecutive ranks: their discounts are a difference of cumulative sums.
    got = ((gains[end] - gains[end - times]) * hit).sum(axis=1)
    return got / gains[(times * hit).sum(axis=1).astype(int)]


def _resolution_draws(s: Scores) -> Draw:
    """Accuracy and gap of each part: the two sets of images are resampled each on its own."""
    parts = _resolution_parts(s)

    def draw(num: int, seed: int) -> Draws:
        whole: dict[str, float] = {}
        drawn: dict[str, np.ndarray] = {}
        notes: dict[str, str] = {}
        for i, (name, (scores, genders, images)) in enumerate(parts.items()):
            for pronouns, end in ((3, ""), (2, "_two_way")):
                # Only the first two parts have a two-way form.
                if pronouns == 2 and i > 1:
                    continue
                columns, value = _pronoun_sums(scores, genders, f"{name}{end}", pronouns)
                found = sum_draws(columns, value, num=num, seed=seed + i, clusters=images)
                whole, drawn = whole | found.whole, drawn | found.drawn
                notes |= found.notes
        both = [f"accuracy_of_{part}" for part in ("one_person", "two_people")]
        whole["accuracy"] = (whole[both[0]] + whole[both[1]]) / 2
        drawn["accuracy"] = (drawn[both[0]] + drawn[both[1]]) / 2
        units = len(np.unique(s.one_image)) + len(np.unique(s.two_image))
        return Draws(whole, drawn, units, notes)

    return draw


def _resolution_parts(s: Scores) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Scores, genders and addresses of the images behind each number."""
    same = s.two_gender == s.other_gender
    return {
        "one_person": (s.one, s.one_gender, s.one_image),
        "two_people": (s.two, s.two_gender, s.two_image),
        "same_gender": (s.two[same], s.two_gender[same], s.two_image[same]),
        "different_gender": (s.two[~same], s.two_gender[~same], s.two_image[~same]),
    }


def _resolution_sizes(s: Scores) -> dict[str, int]:
    """Addresses of the rarer gender behind each number."""
    found = {
        part: int(min(group_units(genders, images, num_groups=2)))
        for part, (_, genders, images) in _resolution_parts(s).items()
    }
    found |= {f"{part}_two_way": found[part] for part in ("one_person", "two_people")}
    sizes = {f"{key}_of_{part}": n for part, n in found.items() for key in ("accuracy", "gap")}
    # Accuracy in all is the mean of one and two people, so that it stands on the smaller part.
    return sizes | {"accuracy": min(found["one_person"], found["two_people"])}


def _pronoun_sums(
    scores: Float[np.ndarray, "n 3"], genders: Int[np.ndarray, " n"], name: str, pronouns: int
) -> tuple[dict[str, np.ndarray], Callable[[Named], Named]]:
    chosen = pronoun_choices(scores, pronouns=pronouns)
    hits = chosen[np.arange(len(genders)), genders]
    columns = {
        f"{what}{g}": (genders == g) * values
        for g in (0, 1)
        for what, values in (("hit", hits), ("all", np.ones(len(hits))))
    }
    if pronouns == 3:
        columns |= {"neutral": chosen[:, 2]}

    def value(t: Named) -> Named:
        men, women = t["hit0"] / t["all0"], t["hit1"] / t["all1"]
        found = {f"accuracy_of_{name}": (men + women) / 2, f"gap_of_{name}": men - women}
        if pronouns == 3:
            found[f"neutral_of_{name}"] = t["neutral"] / (t["all0"] + t["all1"])
        return found

    return columns, value


def _occupation_values(
    scores: Sequence[Float[np.ndarray, " n"]],
    groups: Sequence[Int[np.ndarray, " n"]],
    ks: Sequence[int],
) -> dict[str, Float[np.ndarray, " o"]]:
    """What `visogender_retrieval` takes the means of, a number per occupation."""
    rows = [occupation_skews(s, g, ks=ks) for s, g in zip(scores, groups, strict=True)]
    found = {"ndkl": np.array([row.ndkl for row in rows])}
    for j, k in enumerate(ks):
        found[f"bias_{k}"] = np.array([row.bias[j] for row in rows])
        found[f"bias_abs_{k}"] = np.abs(found[f"bias_{k}"])
        found[f"maxskew_{k}"] = np.array([row.max_skew[j] for row in rows])
        found[f"minskew_{k}"] = np.array([row.min_skew[j] for row in rows])
    return found


def _occupation_draws(
    scores: Sequence[Float[np.ndarray, " n"]],
    groups: Sequence[Int[np.ndarray, " n"]],
    by_name: Mapping[str, Float[np.ndarray, " o"]],
    ks: Sequence[int],
) -> Draw:
    def draw(num: int, seed: int) -> Draws:
        size, rng = min(num, 1000), np.random.default_rng(seed)
        parts: dict[str, list[np.ndarray]] = {key: [] for key in by_name}
        for s, g in zip(scores, groups, strict=True):
            # Images are sorted once. Sorted random ranks are then the ranking of the resample.
            ranked = g[np.argsort(-s, kind="stable")]
            picked = ranked[np.sort(rng.integers(0, len(g), (size, len(g))), axis=1)]
            # The target is the share among the images of the same resample.
            share = np.stack([(picked == i).mean(axis=1) for i in (0, 1)], axis=1)
            parts["ndkl"].append(ndkl_of_codes(picked, share))
            for k in ks:
                if k > len(g):
                    continue
                counts = np.stack([(picked[:, :k] == i).sum(axis=1) for i in (0, 1)], axis=1)
                high, low = skew_extremes(counts.astype(np.float64), share)
                bias = (counts[:, 0] - counts[:, 1]) / k
                values = (("bias", bias), ("bias_abs", np.abs(bias)))
                for key, v in (*values, ("maxskew", high), ("minskew", low)):
                    parts[f"{key}_{k}"].append(v)
        whole = {key: nan_mean(v) for key, v in by_name.items()}
        drawn = {key: _means(v, size) for key, v in parts.items()}
        return centered(Draws(whole, drawn, sum(map(len, groups)), {}))

    return draw


def _means(parts: Sequence[Float[np.ndarray, " r"]], size: int) -> Float[np.ndarray, " r"]:
    if not parts:
        return np.full(size, np.nan)
    table = np.stack(parts)
    some = np.isfinite(table)
    return np.where(some, table, 0).sum(axis=0) / np.where(
        some.any(axis=0), some.sum(axis=0), np.nan
    )
