"""What a projection leaves is orthogonal to what it removed; clipping drops what knows the group."""

import numpy as np
import pytest

from bias_clip.evals.debiasing.transforms import (
    feature_clipping,
    group_basis,
    group_prompts,
    mutual_information,
    project_out,
    projections,
    prompt_projection,
)

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(200, 10))
GROUPS = np.arange(200) % 2
Z[:, 3] += 2 * GROUPS
THREE = np.arange(200) % 3


def test_the_direction_of_two_groups_is_that_of_their_means():
    basis = group_basis(Z, GROUPS)
    gap = Z[GROUPS == 1].mean(axis=0) - Z[GROUPS == 0].mean(axis=0)
    assert basis.shape == (1, 10)
    assert abs(basis[0] @ gap) == pytest.approx(np.linalg.norm(gap))


@pytest.mark.parametrize("groups", [GROUPS, THREE, np.where(np.arange(200) < 9, -1, GROUPS)])
def test_after_the_projection_groups_have_the_same_mean(groups):
    left = project_out(Z, group_basis(Z, groups))
    means = np.stack([left[groups == g].mean(axis=0) for g in np.unique(groups[groups >= 0])])
    np.testing.assert_allclose(means, np.broadcast_to(means[0], means.shape), atol=1e-12)
    again = project_out(left, group_basis(Z, groups))
    np.testing.assert_allclose(again, left, atol=1e-12)


def test_each_projection_changes_what_its_name_says():
    images, texts, both = projections(Z, GROUPS)
    np.testing.assert_array_equal(images.texts(Z), Z)
    np.testing.assert_array_equal(texts.images(Z), Z)
    np.testing.assert_array_equal(images.images(Z), both.images(Z))
    np.testing.assert_array_equal(texts.texts(Z), both.texts(Z))
    # A dot product needs the projection on one side only.
    np.testing.assert_allclose(images.images(Z) @ Z.T, Z @ texts.texts(Z).T, atol=1e-12)


def test_information_is_zero_of_a_constant_and_the_entropy_of_a_copy():
    assert mutual_information(np.zeros(200), GROUPS) == pytest.approx(0, abs=1e-12)
    assert mutual_information(GROUPS + 0.0, GROUPS) == pytest.approx(np.log(2))
    shuffled = np.random.default_rng(1).normal(size=20_000)
    found = mutual_information(shuffled, np.arange(20_000) % 2)
    assert found == pytest.approx(9 / 40_000, rel=1)


def test_clipping_leaves_the_feature_out_that_knows_the_group():
    clip = feature_clipping(Z, GROUPS, share=0.1)
    kept = clip.images(np.arange(10.0)[None])[0].tolist()
    assert kept == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(clip.images(Z), clip.texts(Z))


def test_prompts_are_removed_whole_and_images_stay():
    prompts = RNG.normal(size=(2, 10))
    change = prompt_projection(np.concatenate([prompts, prompts[:1]]))
    # Zero, and not noise that becomes a direction once it has unit length; also of float32, at any size.
    for within in (prompts, 1e-5 * prompts, 3 * prompts.astype(np.float32)):
        np.testing.assert_array_equal(change.texts(within), 0)
    near = prompts + 1e-4 * RNG.normal(size=(2, 10))
    assert change.texts(near).any(axis=1).all()
    np.testing.assert_array_equal(change.images(Z), Z)
    assert group_prompts(["Woman", "East_Asian"]) == [
        "a photo of a woman",
        "a photo of a east asian",
    ]


def test_what_has_no_direction_is_refused():
    with pytest.raises(ValueError, match="1 groups have images"):
        group_basis(Z, np.zeros(200, int))
    with pytest.raises(ValueError, match="same mean"):
        group_basis(np.ones((4, 3)), np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="expected some, and not all"):
        feature_clipping(Z, GROUPS, share=0.01)
    with pytest.raises(ValueError, match="no prompt"):
        prompt_projection(np.zeros((0, 3)))
