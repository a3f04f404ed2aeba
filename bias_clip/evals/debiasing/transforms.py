"""What can be had without training: projections of embeddings, and features left out.

Each is fitted on one part of the data and judged on the rest, see `evals.audit.baselines`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bias_clip.evals.ranking import unit

Matrix = Float[np.ndarray, "n d"]
ROUNDING = 1e-6  # of the length of an embedding in float32


class Transform(NamedTuple):
    """A change of embeddings.

    Attributes:
      name: in words.
      images: maps image embeddings to new ones, not normalised.
      texts: the same for texts.
      source: paper and equation, and how this differs.
    """

    name: str
    images: Callable[[Matrix], Matrix]
    texts: Callable[[Matrix], Matrix]
    source: str


def group_basis(
    z: Float[np.ndarray, "n d"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "r d"]:
    """An orthonormal basis of the differences between the groups' mean embeddings.

    Of two groups this is the unit vector of mean_1 - mean_0. Group -1 is left out.

    Raises:
      ValueError: fewer than two groups, or means that do not differ.
    """
    names = np.unique(groups[groups >= 0])
    if len(names) < 2:
        raise ValueError(f"{len(names)} groups have images; a direction needs two of them.")
    means = np.stack([z[groups == g].astype(np.float64).mean(axis=0) for g in names])
    # Right singular vectors span the differences of the means, of rank g - 1 at most.
    _, sizes, rows = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    # float64 leaves about 1e-16 of the means where the rank ends; 1e-9 is far from both.
    rank = int(np.sum(sizes > 1e-9 * max(1.0, float(np.abs(means).max()))))
    if not rank:
        raise ValueError(
            "all groups have the same mean embedding; there is no direction to remove."
        )
    return rows[:rank]


def project_out(z: Float[np.ndarray, "n d"], basis: Float[np.ndarray, "r d"]) -> Matrix:
    """z - (z B^T) B: what is left of each row beside the span of the orthonormal rows of B.

    A row within the span becomes zero, as in exact arithmetic, and not a direction of rounding noise.
    """
    wide = z.astype(np.float64)
    # In this order: basis.T @ basis would be d x d.
    left = wide - (wide @ basis.T) @ basis
    within = np.linalg.norm(left, axis=1) <= ROUNDING * np.linalg.norm(wide, axis=1)
    return np.where(within[:, None], 0.0, left)


def projections(
    z: Float[np.ndarray, "n d"], groups: Int[np.ndarray, " n"]
) -> tuple[Transform, Transform, Transform]:
    """Projects the attribute's direction out of images, of texts, and of both.

    Reference: Bolukbasi et al.: Man is to Computer Programmer as Woman is to Homemaker? Debiasing
    Word Embeddings, 2016, the step called neutralise: w - w_B, with B from means of image embeddings
    in place of the principal components of pairs of words.
    """
    basis = group_basis(z, groups)
    source = (
        "Bolukbasi et al., 2016, neutralise; the direction is that of the groups' mean "
        "image embeddings"
    )

    def out(x: Matrix) -> Matrix:
        return project_out(x, basis)

    return (
        Transform("projection, images", out, _same, source),
        Transform("projection, texts", _same, out, source),
        Transform("projection, both", out, out, source),
    )


def mutual_information(
    values: Float[np.ndarray, " n"], groups: Int[np.ndarray, " n"], *, bins: int = 10
) -> float:
    """Mutual information of a feature, cut at its quantiles, and a group, in nats.

    ::

        I = sum_bg p(b, g) ln (p(b, g) / (p(b) p(g)))

    Group -1 is left out. The estimate is above 0 by about (bins - 1)(groups - 1) / 2n for a feature
    that is independent of the group, the same for all features.
    """
    x, codes = values[groups >= 0], groups[groups >= 0]
    # Inner edges only: searchsorted puts what is beyond them into the first and the last bin.
    edges = np.quantile(x, np.arange(1, bins) / bins)
    joint = np.zeros((bins, int(codes.max()) + 1))
    np.add.at(joint, (np.searchsorted(edges, x, side="right"), codes), 1 / len(x))
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / independent[some])).sum())


def feature_clipping(
    z: Float[np.ndarray, "n d"], groups: Int[np.ndarray, " n"], *, share: float = 0.2
) -> Transform:
    """Leaves out the features that know most of the attribute, of images and of texts.

    Args:
      z: image embeddings to fit on.
      groups: of the images, -1 for unknown.
      share: of the features that is left out. A fifth is our choice; the paper's was not checked.

    Raises:
      ValueError: a share that leaves nothing out, or nothing.

    Reference: Wang, Liu, Wang: Are Gender-Neutral Queries Really Gender-Neutral? Mitigating Gender
    Bias in Image Search, 2021, the post-processing by mutual information. Ours is of features cut at
    their deciles; the paper's estimate was not checked.
    """
    number = round(share * z.shape[1])
    if not 0 < number < z.shape[1]:
        raise ValueError(
            f"{share=} of {z.shape[1]} features is {number}; expected some, and not all."
        )
    known = np.array([mutual_information(column, groups) for column in z.T])
    kept = np.sort(np.argsort(-known, kind="stable")[number:])

    def clip(x: Matrix) -> Matrix:
        return x[:, kept]

    name = f"feature clipping, {number} of {z.shape[1]}"
    return Transform(
        name, clip, clip, "Wang, Liu, Wang, 2021, feature clipping; information from deciles"
    )


def prompt_projection(prompts: Float[np.ndarray, "p d"]) -> Transform:
    """Projects the span of prompts that name the groups out of the texts; needs no image.

    ::

        P = I - A (A^T A)^+ A^T,   the columns of A: embeddings of "a photo of a man", ...

    Reference: Chuang et al.: Debiasing Vision-Language Models via Biased Prompts, 2023, the
    orthogonal projection, without the calibration that the paper adds.

    Raises:
      ValueError: no prompt.
    """
    if not len(prompts):
        raise ValueError("no prompt names a group; give at least one.")
    _, sizes, rows = np.linalg.svd(unit(prompts, dtype=np.float64), full_matrices=False)
    # Prompts that say the same leave directions of rounding noise, which must not be removed.
    basis = rows[sizes > 1e-9]
    return Transform(
        "prompt projection, texts",
        _same,
        lambda x: project_out(x, basis),
        "Chuang et al., 2023, the orthogonal projection; not calibrated",
    )


def group_prompts(names: Sequence[str]) -> list[str]:
    """The prompts of the groups' names, such as "a photo of a woman"."""
    return [f"a photo of a {name.replace('_', ' ').lower()}" for name in names]


def _same(z: Matrix) -> Matrix:
    return z
