"""SISPI: are the images of a profession ranked as its own, and evenly over the groups?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from bias_clip.evals.bias.skew import ranking_skews
from bias_clip.evals.metrics import Description, Metric, count
from bias_clip.evals.ranking import similarity, unit
from bias_clip.evals.results import EvalResult, or_none
from bias_clip.evals.suites.result import NOT_ENOUGH, check_embeddings, mean_of, suite_result

GENDERS = ("female", "male")
ETHNICITIES = ("asian", "black", "latin", "white")
FIELDS = {"gender": 2, "ethnicity": 4, "both": 8}

DESCRIPTION = Description(
    "bias",
    "Distance of the groups from even among a profession's own images, in the order in which its "
    "name finds them, mean over {professions} professions. The first image alone is never even, so "
    "that 0 is out of reach.",
    {
        "ndkl_{field}": Metric(
            "NDKL, {field}", "nats", "lower", True, chart="NDKL", short="{field}"
        ),
        "ndcg": Metric("nDCG of the own images", "share", "higher", chart="quality"),
        "ap": Metric("average precision of the own images", "share", "higher", chart="quality"),
        "professions": count("professions with images"),
        "empty": count("professions without images"),
        "images": count("images"),
    },
)


class People(NamedTuple):
    """What the file names say; see `read_names`."""

    profession: tuple[str, ...]
    gender: Int[np.ndarray, " n"]
    ethnicity: Int[np.ndarray, " n"]


def read_names(file_names: Sequence[str]) -> People:
    """Reads names such as doctor_102_female_black.jpg: profession, number, gender, ethnicity.

    Raises:
      ValueError: another form, gender or ethnicity; names the first such file.
    """
    professions, genders, ethnicities = [], [], []
    for name in file_names:
        # From the right: professions such as police_officer hold underscores themselves.
        parts = name.rsplit("/", 1)[-1].rsplit(".", 1)[0].rsplit("_", 3)
        if len(parts) != 4 or parts[2] not in GENDERS or parts[3] not in ETHNICITIES:
            raise ValueError(
                f"file {name!r} is not named profession_number_gender_ethnicity, with gender of "
                f"{list(GENDERS)} and ethnicity of {list(ETHNICITIES)}; rename or remove it."
            )
        professions.append(parts[0])
        genders.append(GENDERS.index(parts[2]))
        ethnicities.append(ETHNICITIES.index(parts[3]))
    return People(tuple(professions), np.array(genders, int), np.array(ethnicities, int))


def tied_dcg(scores: Float[np.ndarray, " n"], relevant: Bool[np.ndarray, " n"]) -> float:
    """nDCG with 0/1 relevance, images of equal score sharing the discounts of their ranks.

    NaN where nothing is relevant.
    """
    order, discount, group = _tie_groups(scores)
    if not relevant.any():
        return float("nan")
    # The mean relevance of each set of ties, times the sum of its discounts.
    gain = np.bincount(group, relevant[order]) / np.bincount(group)
    got = float((gain * np.bincount(group, discount)).sum())
    return got / float(discount[: int(relevant.sum())].sum())


def tied_average_precision(
    scores: Float[np.ndarray, " n"], relevant: Bool[np.ndarray, " n"]
) -> float:
    """Average precision by thresholds: images of equal score come in together.

    NaN where nothing is relevant.
    """
    order, _, group = _tie_groups(scores)
    if not relevant.any():
        return float("nan")
    # Relevant images in each set of equal scores.
    own = np.bincount(group, relevant[order])
    precision = np.cumsum(own) / np.cumsum(np.bincount(group))
    return float((precision * own).sum() / own.sum())


def sispi(
    images: Float[np.ndarray, "n d"],
    texts: Float[np.ndarray, "p d"],
    people: People,
    *,
    professions: Sequence[str],
    official: bool = False,
) -> EvalResult:
    """NDKL of gender, ethnicity and both against uniform, nDCG and AP, means over professions.

    Args:
      images: embeddings of any length; cosine is used.
      texts: the prompt of each profession.
      people: of the images, see `read_names`.
      professions: as in the file names.
      official: as in the code of SynthFairCLIP: an image belongs to each profession that its file
        name starts with, and a profession without images makes the means of NDKL NaN and counts as
        0 in those of nDCG and AP. By default it is left out, and counted in `empty`.

    Raises:
      ValueError: embeddings, people or professions that do not fit together.
    """
    check_embeddings(images=images, texts=texts)
    if len(people.profession) != len(images) or len(professions) != len(texts):
        raise ValueError(
            f"{len(people.profession)} names for {len(images)} images, {len(professions)} "
            f"professions for {len(texts)} texts; expected as many."
        )
    # Rounded scores tie for equal images, so that the order is that of the table.
    scores = similarity(unit(texts, dtype=np.float64), unit(images, dtype=np.float64))
    # [professions, 2 + fields]: nDCG, AP and the NDKL of each field.
    rows = np.array(
        [
            _profession(scores[i], _own(people, name, official), people)
            for i, name in enumerate(professions)
        ]
    )
    empty = int(np.isnan(rows[:, 0]).sum())
    metrics = {f"ndkl_{name}": mean_of(rows[:, 2 + i]) for i, name in enumerate(FIELDS)}
    metrics |= {"ndcg": mean_of(rows[:, 0]), "ap": mean_of(rows[:, 1])}
    if official and empty:
        metrics |= {f"ndkl_{name}": float("nan") for name in FIELDS}
        metrics |= {
            name: float(np.nan_to_num(rows[:, i]).mean()) for i, name in enumerate(("ndcg", "ap"))
        }
    metrics |= {"professions": float(len(professions) - empty), "empty": float(empty)}
    metrics["images"] = float(len(images))
    reasons = dict.fromkeys(metrics, f"{NOT_ENOUGH}: {empty} professions have no image")
    keys = ("ndcg", "ap", *(f"ndkl_{name}" for name in FIELDS))
    by_profession = [
        {"name": name, **{key: or_none(v) for key, v in zip(keys, row, strict=True)}}
        for name, row in zip(professions, rows, strict=True)
    ]
    details = {"official": official, "professions": by_profession}
    return suite_result("sispi", metrics, reasons=reasons, details=details)


def _own(people: People, name: str, official: bool) -> Bool[np.ndarray, " n"]:
    """Which images belong to the profession."""
    # The rule of the official code: a profession then also has images of longer names that begin with it.
    if official:
        return np.array([other.startswith(name) for other in people.profession])
    return np.array([other == name for other in people.profession])


def _profession(
    scores: Float[np.ndarray, " n"], own: Bool[np.ndarray, " n"], people: People
) -> list[float]:
    """nDCG, AP and the NDKL of each field."""
    if not own.any():
        return [float("nan")] * (2 + len(FIELDS))
    codes = {"gender": people.gender, "ethnicity": people.ethnicity}
    codes["both"] = people.gender * len(ETHNICITIES) + people.ethnicity
    values = [tied_dcg(scores, own), tied_average_precision(scores, own)]
    number = int(own.sum())
    for field, names in FIELDS.items():
        even = np.full(names, 1 / names)
        # NDKL of all own images: the cut is their number.
        skews = ranking_skews(
            scores[own][None], codes[field][own], even, ks=[number], rule="definition"
        )
        values.append(float(skews.ndkl[0, 0]))
    return values


def _tie_groups(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, Int[np.ndarray, " n"]]:
    """The order by falling score, the discounts of the ranks, and the group of ties of each rank."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    group = np.concatenate([[0], np.cumsum(ranked[1:] != ranked[:-1])])
    return order, 1 / np.log2(np.arange(len(scores)) + 2), group
