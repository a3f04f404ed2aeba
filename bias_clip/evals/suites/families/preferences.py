"""Suites of preferences between prompts, and association tests of sets of words."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bias_clip.evals.bias.association import (
    make_association,
    make_representation,
    pair_preferences,
)
from bias_clip.evals.encode import Encode
from bias_clip.evals.prompts import prompt_embeddings, word_prompts
from bias_clip.evals.resampling import NOT_ENOUGH, Draws, Named, reflected, sum_draws
from bias_clip.evals.suites.association_tests import (
    association_test,
    differential_association,
    effect_size,
)
from bias_clip.evals.suites.layouts.data import SuiteData, read_lines
from bias_clip.evals.suites.measured import (
    Draw,
    Evaluate,
    Measured,
    exact_hits,
    group_units,
)
from bias_clip.evals.suites.spec import Suite

SCALE = 20.0  # of the softmax: fixed, so that models compare


def representation_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """Which of two words the model prefers of images that show neither."""
    words, templates = suite.words["pair"], suite.templates
    # The numbers themselves come from the everyday evaluator; here only their draws are made.
    one = make_representation(data.source, words=words, templates=templates, scale=SCALE)
    prompts = word_prompts(words, templates)

    def evaluate(encode: Encode) -> dict[str, Measured]:
        pair = prompt_embeddings(encode, prompts)[None]
        found = pair_preferences(encode.images(data.source), pair, scale=SCALE)
        won, probability = found.won[:, 0], found.probability[:, 0]
        # Sums of these four give all numbers of a resample.
        columns = {"won": won, "p": probability, "tie": won == 0.5, "n": np.ones(len(won))}
        result = one(encode)

        def value(t: Named) -> Named:
            preference, mean = t["won"] / t["n"], t["p"] / t["n"]
            return {
                "preference": preference,
                "representation": np.abs(preference - 0.5),
                "preference_probability": mean,
                "representation_probability": np.abs(mean - 0.5),
                "ties": t["tie"] / t["n"],
            }

        folded = ("representation", "representation_probability")

        def draw(num: int, seed: int) -> Draws:
            draws = sum_draws(columns, value, num=num, seed=seed, clusters=data.clusters)
            return reflected(draws, folded)

        tested = exact_hits({"preference": won > 0.5}, data.clusters)
        return {"all": Measured(result, draw, hits=tested)}

    return evaluate


def association_family(suite: Suite, data: SuiteData, files: Mapping[str, str]) -> Evaluate:
    """How much more often one group is nearer to the first word of a pair than the other."""
    by, templates = suite.options["by"], suite.templates
    pairs = list(zip(suite.words["first"], suite.words["second"], strict=True))
    groups, names = data.codes[by], suite.groups[by]
    one = make_association(
        data.source, by=by, groups=names, pairs=pairs, templates=templates, scale=SCALE
    )
    prompts = word_prompts([word for a, b in pairs for word in (b, a)], templates)
    least = int(min(group_units(groups, data.clusters, num_groups=2)))

    def evaluate(encode: Encode) -> dict[str, Measured]:
        z = prompt_embeddings(encode, prompts).reshape(len(pairs), 2, -1)
        found = pair_preferences(encode.images(data.source), z, scale=SCALE)
        columns: dict[str, np.ndarray] = {}
        for g in (0, 1):
            columns[f"n{g}"] = groups == g
            for i in range(len(pairs)):
                # An image adds to the sums of its own group only; -1 adds nothing.
                columns[f"won{g}/{i}"] = (groups == g) * found.won[:, i]
                columns[f"p{g}/{i}"] = (groups == g) * found.probability[:, i]

        def value(t: Named) -> Named:
            gaps, odds = (
                np.stack(
                    [t[f"{w}1/{i}"] / t["n1"] - t[f"{w}0/{i}"] / t["n0"] for i in range(len(pairs))]
                )
                for w in ("won", "p")
            )
            return {
                "pairs_mean": np.abs(gaps).mean(axis=0),
                "pairs_max": np.abs(gaps).max(axis=0),
                "pairs_signed": gaps.mean(axis=0),
                "pairs_probability_mean": np.abs(odds).mean(axis=0),
                "pairs_probability_max": np.abs(odds).max(axis=0),
            }

        sizes_of_gaps = [f"pairs{p}_{m}" for p in ("", "_probability") for m in ("mean", "max")]

        def draw(num: int, seed: int) -> Draws:
            draws = sum_draws(columns, value, num=num, seed=seed, clusters=data.clusters)
            return reflected(draws, sizes_of_gaps)

        result = one(encode)
        sizes = {key: least for key in result.metrics if key.startswith("pairs_")}
        return {"all": Measured(result, draw, sizes=sizes)}

    return evaluate


def association_test_family(suite: Suite, data: None, files: Mapping[str, str]) -> Evaluate:
    """Effect size of two sets of words; targets and attributes are resampled, each set on its own."""
    words = {role: read_lines(Path(files[role]), "a word per line") for role in suite.needs}

    def evaluate(encode: Encode) -> dict[str, Measured]:
        x, y, a, b = (encode.texts(words[role]) for role in "xyab")
        result = association_test(x, y, a, b, max_splits=suite.options["max_splits"])
        return {"all": Measured(result, _effect_draws(x, y, a, b))}

    return evaluate


def _effect_draws(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    a: Float[np.ndarray, "k d"],
    b: Float[np.ndarray, "j d"],
) -> Draw:
    sets = (x, y, a, b)

    def draw(num: int, seed: int) -> Draws:
        rng, values = np.random.default_rng(seed), []
        for _ in range(num):
            s = [z[rng.integers(0, len(z), len(z))] for z in sets]
            sx, sy = (differential_association(w, s[2], s[3]) for w in s[:2])
            values.append(effect_size(sx, sy))
        # The value itself is of all words, not of a resample.
        sx, sy = (differential_association(w, a, b) for w in (x, y))
        least = min(map(len, sets))
        notes = {"effect_size": f"{NOT_ENOUGH}: {least} words in a set"} if least < 2 else {}
        whole = {"effect_size": effect_size(sx, sy)}
        return Draws(whole, {"effect_size": np.array(values)}, len(x) + len(y), notes)

    return draw
