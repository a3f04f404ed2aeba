"""The image tower: stems as convolutions, sizes by name, positions, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bias_clip.models import layers, positions, vit
from bias_clip.models.two_towers import count_parameters
from tests.models.cases import assert_close, build, call, normal, scalar_and_grads


def make(**arguments):
    arguments = {"variant": "mu/4", "size": 16, **arguments}
    return build(vit.ViT(**arguments))


def image():
    return normal(2, 16, 16, 3)


def convolve(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_patches_times_kernel_is_the_strided_convolution():
    kernel = normal(4, 4, 3, 7)
    got = jnp.einsum("blijc,ijcd->bld", vit._patches(image(), 4), kernel)
    expected = convolve(image(), kernel, 4, "VALID").reshape(2, 16, 7)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_windows_times_kernel_is_the_stride_two_convolution():
    kernel = normal(3, 3, 3, 7)
    got = jnp.einsum("bhwijc,ijcd->bhwd", vit._windows(image()), kernel)
    np.testing.assert_allclose(got, convolve(image(), kernel, 2, ((1, 0), (1, 0))), atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "millions"),
    # Published sizes of the encoder with patch 16 at 224 px, without a head.
    [("Ti/16", 5.5), ("S/16", 21.7), ("B/16", 85.8), ("L/16", 303.3), ("So400m/14", 412.4)],
)
def test_variants_have_their_published_sizes(variant, millions):
    count = count_parameters(nnx.state(vit.ViT(variant=variant, size=224, pool="gap")))
    assert count / 1e6 == pytest.approx(millions, abs=0.1)


CLIP = {
    "pool": "class",
    "class_token": True,
    "pre_norm": True,
    "patch_bias": False,
    "head_bias": False,
    "activation": "quick_gelu",
    "epsilon": 1e-5,
}
FORMS = [
    *(
        {"pool": pool, "posemb": p, "stem": s}
        for pool in ("map", "gap")
        for p in vit.POSEMBS
        for s in vit.STEMS
    ),
    CLIP,
    {**CLIP, "pre_norm": False, "pool": "gap_norm"},
    {"class_token": True, "pool": "gap"},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_every_form_sees_every_pixel(form):
    tower = make(**form, out_dim=5)
    assert jax.eval_shape(tower, image()).shape == (2, 5)
    slope = scalar_and_grads(tower, image())[1][0]
    assert np.all(np.abs(slope).max(axis=(0, 3)) > 0)


def test_clip_tower_is_its_parts_in_order():
    tower = make(**CLIP, out_dim=5)

    def by_hand(x):
        x = jnp.einsum("blijc,ijcd->bld", vit._patches(x, 4), tower.embedding.kernel[...])
        token = jnp.broadcast_to(tower.class_token[...], (len(x), 1, 32))
        x = jnp.concatenate([token, x], axis=1) + tower.pos_embedding[...]
        y = tower.encoder(tower.pre_norm(x))  # the norm of every token, of which one is taken
        return y[:, 0] @ tower.head.kernel[...]

    assert_close(call(tower, image()), jax.jit(by_hand)(image()))
    assert tower.embedding.bias is None
    assert tower.head.bias is None


def test_mean_of_patches_leaves_the_class_token_out_before_its_norm():
    tower = make(**{**CLIP, "pool": "gap_norm"})

    def by_hand(x):
        x = tower.embedding(vit._patches(x, 4))
        token = jnp.broadcast_to(tower.class_token[...], (len(x), 1, 32))
        x = jnp.concatenate([token, x], axis=1) + tower.pos_embedding[...]
        graph, stacked = nnx.split(tower.encoder.blocks)
        block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], stacked))
        rows = tower.pre_norm(x).reshape(-1, 32)
        y, _ = block(rows, layers.row_statistics(rows), num=len(x))
        return tower.encoder.norm(jnp.mean(y.reshape(x.shape)[:, 1:], axis=1))

    assert_close(call(tower, image()), jax.jit(by_hand)(image()))


@pytest.mark.parametrize("posemb", vit.POSEMBS)
def test_positions_tell_where_a_patch_is(posemb):
    tower, x = make(posemb=posemb), image()
    turned = jnp.concatenate([x[:, 4:], x[:, :4]], axis=1)  # the same patches elsewhere
    assert np.abs(call(tower, turned) - call(tower, x)).max() > 1e-3


def test_sincos_positions():
    table = vit.sincos2d(4, 32)
    assert table.shape == (16, 32)
    np.testing.assert_allclose(np.sum(table**2, axis=1), 16, rtol=1e-5)  # sin² + cos² of 16 angles
    grid = table.reshape(4, 4, 32)
    np.testing.assert_array_equal(grid[0, :, 16:], grid[0, :1, 16:].repeat(4, 0))  # y: second half
    np.testing.assert_allclose(grid[0, 3, 0], np.sin(3.0), rtol=1e-5)  # x: first, slowest last
    np.testing.assert_allclose(grid[2, 0, 16 + 7], np.sin(2e-4), rtol=1e-5)


def test_fixed_positions_are_not_parameters():
    learned, fixed = (nnx.state(make(posemb=posemb)) for posemb in vit.POSEMBS)
    assert count_parameters(learned) - count_parameters(fixed) == 16 * 32


def test_sizes_can_be_overridden_one_by_one():
    sizes, patch = vit.parse_variant("Ti/8", depth=6)
    assert (sizes, patch) == (vit.Sizes(192, 6, 768, 3), 8)
    assert vit.parse_variant("Ti", width=256, num_heads=4) == (vit.Sizes(256, 12, 1024, 4), None)
    assert vit.parse_variant("Ti", width=256, mlp_dim=512)[0].mlp_dim == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "XL/16"}, "'XL', expected one of mu, Ti, S"),
        ({"variant": "mu"}, "needs a patch"),
        ({"variant": "mu/x"}, "'mu/16'"),
        ({"variant": "mu/0"}, "'mu/16'"),
        ({"size": 18}, "size 18, patch 4; nearest sizes are 16 and 20"),
        ({"size": 2}, "size 2, patch 4"),
        ({"pool": "tok"}, "'tok', expected one of map, gap"),
        ({"posemb": "rope"}, "learned, sincos2d"),
        ({"stem": "resnet"}, "patch, conv"),
        ({"stem": "conv", "variant": "mu/6", "size": 18}, "power of 2: got 6"),
        ({"width": 30, "posemb": "sincos2d"}, "width that divides by 4, at least 8: got 30"),
        ({"num_heads": 5}, "width 32, num_heads 5"),
        ({"depth": 0}, "positive"),
        ({"out_dim": 0}, "out_dim"),
        ({"pool": "class"}, "pool 'class' needs class_token=True"),
        ({"class_token": True, "posemb": "sincos2d"}, "posemb 'learned'.*got 'sincos2d'"),
        ({"activation": "swish"}, "'swish', expected one of gelu_tanh, gelu, quick_gelu"),
    ],
)
def test_what_cannot_be_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize("more", [{}, CLIP])
def test_patches_that_are_left_out_have_no_influence(more):
    tower, x = make(**more), image()
    kept = jnp.array([[1, 4, 6, 15], [0, 2, 3, 11]])
    # A grid of 4 x 4: patch 5 is left out of both images, patch 6 of the second alone.
    pixels = {5: (slice(4, 8), slice(4, 8)), 6: (slice(4, 8), slice(8, 12))}
    y = nnx.jit(lambda x, kept: tower(x, kept))
    before = y(x, kept)
    without, changed = (y(x.at[:, *pixels[i]].add(1.0), kept) for i in (5, 6))
    np.testing.assert_array_equal(without, before)
    np.testing.assert_array_equal(changed[1], before[1])
    assert np.abs(changed[0] - before[0]).max() > 1e-4
    everything = jnp.tile(jnp.arange(16), (2, 1))
    np.testing.assert_allclose(y(x, everything), call(tower, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", [{}, CLIP, {"posemb": "sincos2d"}])
def test_an_image_of_another_size_has_resampled_positions(more):
    large, small = make(**more), make(size=8, **more)
    # The same tower for 8 px: a table of 2 x 2 that is made by hand.
    state = nnx.state(large)
    if "posemb" in more:
        table = vit.sincos2d(4, 32)
    else:
        table = np.asarray(state["pos_embedding"][...])[0]
    first = len(table) - 16
    grid = positions.resample_grid(table[first:], old=4, new=2, rule="linear_antialias")
    made = np.concatenate([table[:first], grid])[None]
    x = normal(2, 8, 8, 3)
    if "posemb" in more:
        np.testing.assert_allclose(large._resampled(jnp.asarray(table)[None], 4), made, atol=1e-6)
        assert call(large, x).shape == call(small, x).shape
        return
    state["pos_embedding"] = state["pos_embedding"].replace(jnp.asarray(made))
    nnx.update(small, state)
    assert_close(call(large, x), call(small, x))
