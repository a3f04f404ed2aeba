"""Several models as one: laws of the joined embedding, and the authors' numbers."""

from pathlib import Path

import numpy as np
import pytest

from bias_clip.evals import make_encoder, make_evaluator
from bias_clip.evals.concat import FORMS, Stage, concat_encode, join
from bias_clip.evals.ranking import unit
from tests.evals.cases import ListSource, normal, record

SOURCE = ListSource(record(i, [f"{'a' * i}b"]) for i in range(10))
TEXTS = [r["captions"][0] for r in SOURCE.records]


def image_fn(image, rng):
    return image[0, :1, :3].reshape(1, 1, 3).astype(np.float32) / 255


def text_fn(text):
    return np.array([len(text), ord(text[0]), text.count("a"), 1], np.int32)


def make_stage(seed, *, times=1.0, width=5, scale=10.0, bias=-10.0):
    """Linear towers of a width of their own."""
    img, txt = normal(seed, 3, width) * times, normal(seed + 100, 4, width) * times
    return Stage(
        image=lambda x: x.reshape(len(x), -1) @ img,
        text=lambda x: x @ txt,
        image_fn=image_fn,
        text_fn=text_fn,
        scale=scale,
        bias=bias,
    )


def embed(*stages, form="raw", batch_size=4):
    encode = concat_encode(stages, form=form, batch_size=batch_size)
    return encode.images(SOURCE), encode.texts(TEXTS)


def assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **{"atol": 1e-6, **tolerance})


@pytest.mark.parametrize("form", FORMS)
def test_one_stage_is_that_stage(form):
    stage = make_stage(0)
    encoder = make_encoder(
        embed_image=lambda _, x: stage.image(x),
        embed_text=lambda _, x: stage.text(x),
        image_fn=image_fn,
        text_fn=text_fn,
        batch_size=3,
    )
    alone = encoder(None, stage.scale, stage.bias)
    assert_same(embed(stage, form=form), (alone.images(SOURCE), alone.texts(TEXTS)))
    encode = concat_encode([stage], form=form, batch_size=3)
    assert (encode.scale, encode.bias) == (alone.scale, alone.bias) == (10.0, -10.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_stage_times_zero_is_removed(form, place):
    stages, silent = [make_stage(0), make_stage(1, width=7)], make_stage(2, times=0.0, width=3)
    stages.insert(place, silent)
    left = [stage for stage in stages if stage is not silent]
    start = sum(stage.image(np.zeros((1, 3))).shape[1] for stage in stages[:place])
    without = tuple(np.insert(z, [start] * 3, 0, axis=1) for z in embed(*left, form=form))
    assert_same(embed(*stages, form=form), without)


def test_a_raw_stage_counts_by_its_length_and_a_unit_one_does_not():
    small, big = (make_stage(1, times=t) for t in (1.0, 50.0))
    zimg, ztxt = embed(make_stage(0), big)
    alone = embed(make_stage(1))
    cosines = zimg @ ztxt.T
    np.testing.assert_allclose(cosines, alone[0] @ alone[1].T, atol=2e-2)
    assert (
        np.abs(cosines - np.matmul(embed(make_stage(0))[0], embed(make_stage(0))[1].T)).max() > 0.1
    )
    assert_same(embed(make_stage(0), small, form="unit"), embed(make_stage(0), big, form="unit"))


def test_the_unit_cosine_is_the_mean_of_the_stages_cosines():
    stages = [make_stage(0), make_stage(1, times=9.0, width=7), make_stage(2)]
    each = [np.matmul(z[0], z[1].T) for z in map(embed, stages)]
    zimg, ztxt = embed(*stages, form="unit")
    np.testing.assert_allclose(zimg @ ztxt.T, np.mean(each, axis=0), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_embeddings_are_of_unit_norm_and_the_order_of_stages_moves_columns_only(form):
    one, two = make_stage(0), make_stage(1, times=3.0)
    there, back = embed(one, two, form=form), embed(two, one, form=form)
    for z in there:
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
    assert_same(there, tuple(np.roll(z, 5, axis=1) for z in back))
    assert_same(there, embed(one, two, form=form, batch_size=64))


def test_every_evaluator_takes_a_joined_model_and_logits_have_the_mean_scale():
    encode = concat_encode(
        [make_stage(0, scale=10.0, bias=-10.0), make_stage(1, scale=30.0, bias=-4.0)],
        batch_size=4,
    )
    assert (encode.scale, encode.bias) == (20.0, -7.0)
    for name in ("retrieval", "contrastive"):
        metrics = make_evaluator(name, SOURCE)(encode).metrics
        assert np.isfinite(list(metrics.values())).all()


def test_forms_and_numbers_of_stages_are_checked_at_once():
    with pytest.raises(
        ValueError, match=r"form='mean', 1 stages; expected one of \['raw', 'unit'\]"
    ):
        concat_encode([make_stage(0)], form="mean", batch_size=4)
    with pytest.raises(ValueError, match="0 stages"):
        concat_encode([], batch_size=4)


@pytest.mark.parametrize("case", [0, 1])
def test_joined_embeddings_have_the_authors_mean_similarities(case):
    """Mean cosine of the two images, and the two texts, of a pair, by pattern."""
    golden = np.load(Path(__file__).parents[1] / "golden" / f"metric_mmvp_{case}.npz")
    for name in ("image", "text"):
        z = unit(join(list(golden[f"{name}_embeddings"]), form="raw")).reshape(135, 2, -1)
        cosines = np.einsum("pd,pd->p", z[:, 0], z[:, 1]).reshape(9, 15).mean(axis=1)
        np.testing.assert_allclose(
            cosines, golden[f"concat_mean_{name}_similarity"], rtol=1e-5, atol=1e-6
        )
