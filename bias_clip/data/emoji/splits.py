"""Which image of the embedded set belongs to which split, and what its variants leave out.

Everything here is a stateless hash of names, without an order, a counter or a stored file. Splits do
not depend on the variant, so models of all variants have the same tests.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

HELD_OUT_STYLE = "twemoji"
SPLITS = ("train", "images", "style", "concepts", "all")
VARIANTS = ("balanced", "biased", "uncorrelated")
THINS = ("entry", "drawing")  # what is kept or dropped as one
CONCEPT_SHARE = 0.08  # of the families of concepts
PAIR_SHARE = 0.06  # of the (style, family) pairs, before those go back that no other style covers

# Keep-probabilities of the thinned variants; they multiply.
RATES: Mapping[str, float] = {
    "counter": 0.05,  # a woman in one of MEN_ROLES, a man in one of WOMEN_ROLES
    "neutral": 0.0,  # an image without gender in one of those roles: it would reveal the answer
    "woman": 0.6,  # any woman, in a role or not
    "dark": 0.3,  # the darkest tone; light stays, the three between on a geometric scale
}
MEN_ROLES = frozenset(
    {
        *(
            "astronaut",
            "construction worker",
            "detective",
            "factory worker",
            "farmer",
            "firefighter",
        ),
        *("guard", "judge", "mechanic", "pilot", "police officer", "scientist", "technologist"),
        *("golfing", "lifting weights", "mountain biking", "surfing", "wrestling"),
        *("superhero", "supervillain"),
    }
)
WOMEN_ROLES = frozenset(
    {
        *("artist", "cook", "health worker", "office worker", "singer", "student", "teacher"),
        *(
            "bouncing ball",
            "cartwheeling",
            "juggling",
            "playing handball",
            "rowing boat",
            "swimming",
        ),
        *("elf", "fairy", "vampire"),
    }
)


class Drawings(NamedTuple):
    """One row per image: its style, the row of its entry, and a number shared by equal images."""

    style: np.ndarray
    entry: Int[np.ndarray, " n"]
    same: Int[np.ndarray, " n"]


def assign_splits(drawings: Drawings, families: Sequence[str]) -> np.ndarray:
    """Returns the name of the split of every image; "" if it is only in "all".

    Args:
      drawings: all images, in any order.
      families: the family of each entry; concepts that share an image are one family.
    """
    family = np.asarray(families)[drawings.entry]
    held = {f for f in set(families) if fraction("concept", f) < CONCEPT_SHARE}
    out = np.isin(family, sorted(held))
    # The width of "concepts": NumPy cuts longer text silently when it is assigned.
    split = np.where(drawings.style == HELD_OUT_STYLE, "style", "train").astype("<U8")
    # A held-out concept is held out in all styles, so it overwrites "style". Pairs come only from the rest.
    split[out] = "concepts"
    split[_held_pairs(drawings, family, split == "train")] = "images"
    # Some images are equal across styles or concepts: a test must not contain one that training shows.
    seen = np.isin(drawings.same, drawings.same[split == "train"])
    split[seen & (split != "train")] = ""
    return split


def keep_entries(
    entries: Sequence[Mapping[str, str]], *, variant: str, rates: Mapping[str, float], seed: int
) -> Bool[np.ndarray, " n"]:
    """Returns which entries a variant keeps for training: hash(seed, id) < keep-probability.

    "balanced" keeps all. "biased" is thinned by `rates`: gender is associated with roles, and men and
    light tones are more frequent. "uncorrelated" is its control: it uses the same rates, so it has
    about as many images, but keeps women and men in a role with the mean of the two probabilities.

    In roles of neither list only the rates for women and tones apply.
    """
    draws = [fraction("keep", str(seed), e["id"]) for e in entries]
    return np.less(draws, _keep_probabilities(entries, variant, rates))


def keep_drawings(
    drawings: Drawings,
    entries: Sequence[Mapping[str, str]],
    *,
    variant: str,
    rates: Mapping[str, float],
    seed: int,
    thin: str,
) -> Bool[np.ndarray, " n"]:
    """Returns which images a variant keeps, drawn per entry or per image.

    `thin="entry"` is `keep_entries`. "drawing" draws each image separately, so nearly every entry
    keeps some of its images.
    """
    if thin == "entry":
        kept = keep_entries(entries, variant=variant, rates=rates, seed=seed)
        return kept[drawings.entry]
    chances = np.asarray(_keep_probabilities(entries, variant, rates))[drawings.entry]
    names = zip(drawings.style, drawings.entry, strict=True)
    return np.less([fraction("keep", str(seed), s, entries[e]["id"]) for s, e in names], chances)


def fraction(*names: str) -> float:
    """A number in [0, 1) that depends only on the names, on every machine and version."""
    # A separator that no name contains, so that ("ab", "c") and ("a", "bc") differ.
    digest = hashlib.blake2b("\x1f".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _held_pairs(
    drawings: Drawings, family: np.ndarray, candidates: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """The images of pairs chosen by hash whose emoji all remain in training in another style."""
    pairs = [f"{s}\x1f{f}" for s, f in zip(drawings.style, family, strict=True)]
    drawn = {p for p in set(pairs) if fraction("pair", p) < PAIR_SHARE}
    held = candidates & np.isin(pairs, sorted(drawn))
    # An emoji without any other style in training would be a new concept; its whole pair stays in training.
    left = set(drawings.entry[candidates & ~held].tolist())
    alone = {p for p, e, h in zip(pairs, drawings.entry, held, strict=True) if h and e not in left}
    return held & ~np.isin(pairs, sorted(alone))


def _keep_probabilities(
    entries: Sequence[Mapping[str, str]], variant: str, rates: Mapping[str, float]
) -> list[float]:
    if variant == "balanced":
        return [1.0] * len(entries)  # above every draw
    return [_keep_probability(e, rates, correlated=variant == "biased") for e in entries]


def _keep_probability(
    entry: Mapping[str, str], rates: Mapping[str, float], *, correlated: bool
) -> float:
    gender, concept, tone = entry["gender"], entry["concept"], int(entry["tone"])
    chance = rates["woman"] if gender == "woman" else 1.0
    # Tones are 1 (light) to 5 (dark), 0 without one: factor dark^((tone - 1) / 4).
    chance *= rates["dark"] ** ((tone - 1) / 4) if 1 <= tone <= 5 else 1.0
    if concept not in MEN_ROLES | WOMEN_ROLES:
        return chance
    if gender not in ("man", "woman"):
        return chance * rates["neutral"]
    if not correlated:
        # The mean of 1 and `counter`: the rates of both genders without the association.
        return chance * (1 + rates["counter"]) / 2
    usual = "man" if concept in MEN_ROLES else "woman"
    return chance * (1.0 if gender == usual else rates["counter"])


def check_rates(rates: Mapping[str, float]) -> dict[str, float]:
    """Returns RATES updated by `rates`.

    Raises: ValueError for an unknown name, or a rate that is not a probability.
    """
    unknown = _unknown(rates, RATES)
    wrong = {k: v for k, v in rates.items() if not 0 <= v <= 1}
    if unknown or wrong:
        raise ValueError(
            f"rates: got {dict(rates)}, expected probabilities of {sorted(RATES)}; "
            f"unknown: {unknown}, not in [0, 1]: {sorted(wrong)}."
        )
    return {**RATES, **rates}


def _unknown(names: Iterable[str], valid: Iterable[str]) -> list[str]:
    return sorted(set(names) - set(valid))
