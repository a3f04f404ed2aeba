"""The whole model: its size, its tree, its norms, its errors, and how it is started on a mesh."""

import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bias_clip.losses import sigmoid_loss
from bias_clip.models import count_parameters, make_model, unit_norm
from bias_clip.plan.flops import count_flops
from bias_clip.train.sharding import make_mesh, tree_shardings
from configs.default import get_config

IMAGE = {"variant": "mu/8", "size": 16, "depth": 2}
TEXT = {"variant": "mu", "vocab_size": 11, "length": 6, "depth": 2, "out_dim": 32}
CLIP_IMAGE = dict(pool="class", class_token=True, pre_norm=True, patch_bias=False, head_bias=False)
CLIP_TEXT = dict(mask="causal", pool="argmax", head_bias=False)


def tiny(image=None, text=None, **arguments):
    return make_model(image={**IMAGE, **(image or {})}, text={**TEXT, **(text or {})}, **arguments)


def batch(b=4):
    random = np.random.default_rng(7)
    return {
        "image": jnp.asarray(random.uniform(-1, 1, (b, 16, 16, 3)), jnp.float32),
        "text": jnp.asarray(random.integers(0, 11, (b, 6)), jnp.int32),
    }


def start(model, seed=0):
    return jax.jit(model.init)(jax.random.key(seed))


@functools.cache
def params():
    return start(tiny())


def run(model, params, **inputs):
    return jax.jit(model.apply)(params, **inputs)


def paths(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def siglip_b16():
    return make_model(
        image={"variant": "B/16", "size": 224},
        text={"variant": "B", "vocab_size": 32_000, "length": 64, "out_dim": 768},
    )


def test_siglip_b16_has_its_published_parameters():
    params = jax.eval_shape(siglip_b16().init, jax.random.key(0))
    assert count_parameters(params) == 203_155_970
    assert count_parameters(params["img"]) == 92_884_224
    assert count_parameters(params["txt"]) == 110_271_744


def test_tree_is_plain_float32_and_matrices_are_called_kernel():
    tree = start(tiny(image={"stem": "conv"}))
    kinds = jax.tree.leaves(jax.tree.map(type, tree, is_leaf=lambda node: type(node) is not dict))
    assert set(kinds) == {type(jnp.zeros(()))}
    found = paths(tree)
    assert {leaf.dtype for leaf in found.values()} == {jnp.dtype("float32")}
    names = {path.rsplit("/", 1)[-1] for path in found}
    assert names == {
        *("kernel", "bias", "scale", "probe", "pos_embedding", "embedding", "log_scale")
    }
    assert found["img/encoder/blocks/attention/query/kernel"].shape == (2, 32, 2, 16)
    assert found["txt/encoder/blocks/mlp/fc2/kernel"].shape == (2, 128, 32)


def test_embeddings_have_unit_norm_and_the_loss_starts_near_ten():
    model = tiny(image={"width": 64}, text={"width": 64, "out_dim": 64})
    out = run(model, start(model), **batch(16))
    for z in (out.zimg, out.ztxt):
        assert z.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(out.scale, 10.0, rtol=1e-6)
    assert out.bias == -10.0
    loss = sigmoid_loss(out.zimg, out.ztxt, scale=out.scale, bias=out.bias).mean()
    assert 7 < loss < 13  # -log sigmoid(b) = 10 where the cosine is near 0


def test_one_tower_alone_is_the_tower_of_both():
    both = run(tiny(), params(), **batch())
    alone = run(tiny(), params(), image=batch()["image"])
    assert alone.ztxt is None
    np.testing.assert_allclose(alone.zimg, both.zimg, atol=1e-6)
    alone = run(tiny(), params(), text=batch()["text"])
    assert alone.zimg is None
    np.testing.assert_allclose(alone.ztxt, both.ztxt, atol=1e-6)


def _loss(model, params, **inputs):
    zimg, ztxt, scale, bias = model.apply(params, **inputs)
    return jnp.mean(sigmoid_loss(zimg, ztxt, scale=scale, bias=bias))


def test_gradients_of_both_towers_are_those_of_each_alone():
    model = tiny()

    def apart(params, image, text):
        zimg = model.apply(params, image=image).zimg
        _, ztxt, scale, bias = model.apply(params, text=text)
        return jnp.mean(sigmoid_loss(zimg, ztxt, scale=scale, bias=bias))

    together = jax.jit(jax.grad(functools.partial(_loss, model)))(params(), **batch())
    expected = jax.jit(jax.grad(apart))(params(), **batch())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together, expected)


def test_backward_pass_of_the_text_tower_ends_before_that_of_the_images_begins():
    model = tiny()
    jaxpr = jax.make_jaxpr(jax.grad(functools.partial(_loss, model)))(params(), **batch())
    barriers = [e for e in jaxpr.eqns if e.primitive.name == "optimization_barrier"]
    barrier = max(barriers, key=lambda equation: len(equation.invars))
    makes = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    shapes = [leaf.shape for leaf in jax.tree.leaves(params()["txt"])]
    assert [x.aval.shape for x in barrier.invars] == [*shapes, (4, 32)]

    def needs(variable, wanted, seen):
        """Whether `wanted` is among what `variable` is computed from."""
        if hasattr(variable, "val") or variable in seen:  # a literal, or looked at
            return False
        seen.add(variable)
        if variable is wanted:
            return True
        return variable in makes and any(needs(x, wanted, seen) for x in makes[variable].invars)

    held = barrier.outvars[-1]
    grads = dict(zip(paths(params()), jaxpr.jaxpr.outvars, strict=True))
    for path, grad in grads.items():
        assert needs(grad, held, set()) == path.startswith("img/")


def test_unit_norm_of_zero_is_zero_with_zero_gradient_and_nan_stays():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [jnp.nan, 1.0], [1e-15, 0.0]])
    y = unit_norm(x)
    np.testing.assert_allclose(y[:2], [[0, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.all(np.isnan(y[2]))
    np.testing.assert_allclose(y[3], [1, 0], rtol=1e-5)
    slope = jax.grad(lambda x: jnp.sum(unit_norm(x) * jnp.array([1.0, 2.0])))(x[:2])
    np.testing.assert_allclose(slope, [[0, 0], [-0.064, 0.048]], atol=1e-6)


def test_rows_do_not_see_each_other():
    whole = run(tiny(), params(), **batch())
    part = run(tiny(), params(), **{key: value[2:] for key, value in batch().items()})
    np.testing.assert_allclose(part.zimg, whole.zimg[2:], atol=1e-5)
    np.testing.assert_allclose(part.ztxt, whole.ztxt[2:], atol=1e-5)


def gradients(model):
    def scalar(params):
        out = model.apply(params, **batch())
        return jnp.sum(sigmoid_loss(out.zimg, out.ztxt, scale=out.scale, bias=out.bias))

    return jax.jit(jax.value_and_grad(scalar))(params())


def test_scan_and_unrolled_agree_on_the_same_parameters_and_all_of_them_learn():
    expected, got = gradients(tiny(scan=False)), gradients(tiny(scan=True, remat="dots"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
    for path, leaf in paths(got[1]).items():  # softmax does not see what a key's bias adds
        assert np.any(leaf) or path.endswith("key/bias"), path


def test_bfloat16_computes_near_float32_and_keeps_float32_parameters_and_results():
    half = run(tiny(dtype="bfloat16"), params(), **batch())
    full = run(tiny(), params(), **batch())
    assert half.zimg.dtype == half.ztxt.dtype == jnp.float32
    assert np.sum(half.zimg * full.zimg, axis=1).min() > 0.999
    assert np.sum(half.ztxt * full.ztxt, axis=1).min() > 0.999
    assert np.abs(half.zimg - full.zimg).max() > 1e-6  # it did compute in bfloat16
    np.testing.assert_allclose(np.linalg.norm(half.zimg, axis=1), 1, rtol=1e-5)


def test_the_loop_over_depth_stacks_the_gradients_of_kernels_in_the_dtype_of_the_products():
    half = make_model(image={**IMAGE, "depth": 3}, text=None, dtype="bfloat16", remat="full")
    shapes = jax.eval_shape(half.init, jax.random.key(0))
    image = batch()["image"]
    traced = jax.make_jaxpr(jax.grad(lambda p: half.features(p, image=image).image.sum()))(shapes)
    loops = [x for x in traced.eqns if x.primitive.name == "scan"]
    stacked = {(v.aval.shape, str(v.aval.dtype)) for loop in loops for v in loop.outvars}
    assert ((3, 32, 128), "bfloat16") in stacked  # of the MLP
    assert ((3, 32, 128), "float32") not in stacked
    assert ((3, 32), "float32") in stacked  # norms and biases


def sums_in_bfloat16(jaxpr):
    """Shapes of all sums over bfloat16 numbers in a program and in those that it calls."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("reduce_sum", "cumsum"):
            found += [v.aval.shape for v in equation.invars if v.aval.dtype == jnp.bfloat16]
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += sums_in_bfloat16(inner)
    return found


@pytest.mark.parametrize(
    ("image", "text", "how"),
    [
        ({}, {}, {}),
        ({}, {}, {"scan": False}),
        ({}, {"pool": "map"}, {"remat": "full", "attention": "pallas"}),
        ({"pool": "gap", "stem": "conv"}, {"pool": "gap"}, {"remat": "dots"}),
        ({**CLIP_IMAGE, "out_dim": 32}, CLIP_TEXT, {"bias_init": None}),
    ],
)
def test_gradients_that_sum_over_examples_or_tokens_sum_in_float32(image, text, how):
    model = tiny(image=image, text=text, dtype="bfloat16", **how)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    grad = jax.make_jaxpr(jax.grad(functools.partial(_loss, model)))(shapes, **batch())
    assert sums_in_bfloat16(grad.jaxpr) == []


def test_init_is_a_function_of_the_key_and_the_towers_differ():
    init = jax.jit(tiny(text={"pool": "map"}).init)
    a, b, c = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    towers = [tree[tower] for tree in (a, c) for tower in ("img", "txt")]
    kernels = [tower["encoder"]["blocks"]["mlp"]["fc1"]["kernel"] for tower in towers]
    for i in range(4):
        for j in range(i):
            assert np.abs(kernels[i] - kernels[j]).max() > 0.01


def test_init_writes_straight_into_its_shards():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    model = tiny()
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def sharding(leaf):
        split = leaf.ndim > 1 and leaf.shape[-1] % 8 == 0
        axes = [None] * (leaf.ndim - 1) + ["data"] if split else []
        return NamedSharding(mesh, PartitionSpec(*axes))

    shardings = jax.tree.map(sharding, shapes)
    sharded = jax.jit(model.init, out_shardings=shardings)(jax.random.key(0))
    table = sharded["txt"]["embedding"]
    assert table.sharding.shard_shape(table.shape) == (11, 4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), sharded, params())
    out, alone = run(model, sharded, **batch(8)), run(model, params(), **batch(8))
    np.testing.assert_allclose(out.zimg, alone.zimg, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": {"widht": 5}}, "image has 'widht'.*mean 'width'"),
        ({"text": {"remat": "full"}}, "text has 'remat'"),
        ({"text": {"out_dim": 16}}, "got 32 for images and 16 for texts"),
        ({"dtype": "float16"}, "float32, bfloat16"),
        ({"attention": "flash"}, "xla, cudnn"),
        ({"attention": "cudnn"}, "needs dtype 'bfloat16'"),
        ({"remat": "all"}, "none, minimal, dots, full"),
        ({"scale_init": 0.0}, "scale_init"),
    ],
)
def test_what_cannot_be_is_an_error_before_anything_runs(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_fused_attention_is_the_same_function(monkeypatch):
    """On a CPU XLA stands in for the kernel: scale, axes and wiring are ours."""
    fused = jax.nn.dot_product_attention

    def stand_in(q, k, v, *, is_causal, implementation):
        assert implementation == "cudnn"
        return fused(q, k, v, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    text = {"mask": "causal"}
    plain, kernel = (tiny(text=text, attention=a, dtype="bfloat16") for a in ("xla", "cudnn"))
    p, inputs = plain.init(jax.random.key(0)), batch(4)
    one, other = plain.apply(p, **inputs), kernel.apply(p, **inputs)
    np.testing.assert_allclose(one.zimg, other.zimg, atol=0.02)
    np.testing.assert_allclose(one.ztxt, other.ztxt, atol=0.02)
    assert np.abs(one.zimg - np.roll(one.zimg, 1, axis=0)).max() > 0.1


def test_fused_attention_wants_an_even_number_of_tokens():
    image = {**IMAGE, "size": 24}  # 3 x 3 patches
    model = tiny(image=image, attention="cudnn", dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match="even number of tokens: got 9"):
        jax.eval_shape(model.apply, shapes, image=jnp.zeros((2, 24, 24, 3)))


def test_tokens_of_the_image_tower_are_rows_in_order():
    """Left free, XLA for GPUs puts the batch innermost; on a CPU only the request can be seen."""
    shapes = jax.eval_shape(tiny().init, jax.random.key(0))
    lowered = jax.jit(tiny().apply).lower(shapes, image=jnp.zeros((2, 16, 16, 3)))
    (barrier,) = [line for line in lowered.as_text().splitlines() if "optimization_barrier" in line]
    assert "tensor<8x32xf32>" in barrier  # 2 images of 4 tokens


def clip_b32(**how):
    same = {"activation": "quick_gelu", "epsilon": 1e-5}
    return make_model(
        image=dict(variant="B/32", size=224, out_dim=512, **CLIP_IMAGE, **same),
        text=dict(variant="M", vocab_size=49_408, length=77, out_dim=512, **CLIP_TEXT, **same),
        bias_init=None,
        **how,
    )


def test_clip_counts_its_published_flops_and_is_split_by_the_default_rules():
    params = jax.eval_shape(clip_b32().init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 77), jnp.int32)
    for attention in ("xla", "pallas"):
        count = count_flops(clip_b32(attention=attention).apply, params, image, text)
        assert count == pytest.approx(14.78e9, rel=1e-3)  # ViT-B-32 in open_clip's table of models
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    held = paths(tree_shardings(params, get_config().sharding, mesh))
    assert held["img/head/kernel"].spec == PartitionSpec("fsdp", None)
    assert held["txt/encoder/blocks/attention/query/kernel"].spec[2] == "tensor"


def test_clip_sizes_are_the_published_ones():
    params = jax.eval_shape(clip_b32().init, jax.random.key(0))
    assert count_parameters(params) == 151_277_313  # openai/clip-vit-base-patch32
    assert "bias" not in params


def test_clip_learns_with_scan_and_remat_as_unrolled():
    def clip(**how):
        image = {**CLIP_IMAGE, "out_dim": 24}
        return tiny(image=image, text={**CLIP_TEXT, "out_dim": 24}, bias_init=None, **how)

    start_ = start(clip())

    def gradients(model):
        return jax.jit(jax.value_and_grad(functools.partial(_loss, model)))(start_, **batch())

    expected, got = gradients(clip(scan=False)), gradients(clip(remat="dots", attention="pallas"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)
    for path, leaf in paths(got[1]).items():
        assert np.any(leaf) or path.endswith("key/bias"), path


def test_a_lone_tower_is_the_tower_of_both_and_names_what_it_lacks():
    model = make_model(image=IMAGE, text=None)
    mine = {"img": params()["img"]}
    assert list(jax.eval_shape(model.init, jax.random.key(0))) == ["img"]
    out = run(model, mine, image=batch()["image"])
    np.testing.assert_allclose(out.zimg, run(tiny(), params(), **batch()).zimg, atol=1e-6)
    assert (out.ztxt, out.scale, out.bias) == (None, 1.0, 0.0)
    with pytest.raises(ValueError, match="no text tower"):
        model.apply(mine, text=batch()["text"])
    with pytest.raises(ValueError, match="needs a tower"):
        make_model(image=None, text=None)


def test_missing_arguments_are_named():
    with pytest.raises(ValueError, match=r"text lacks .'vocab_size'"):
        make_model(image=IMAGE, text={"variant": "mu"})


def test_wrong_shapes_are_named():
    shapes = jax.eval_shape(tiny().init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"image shape: got \(24, 24, 3\).*\(16, 16, 3\)"):
        jax.eval_shape(tiny().apply, shapes, image=jnp.zeros((2, 24, 24, 3)))
    with pytest.raises(ValueError, match=r"text shape: got \(8,\).*\(6,\)"):
        jax.eval_shape(tiny().apply, shapes, text=jnp.zeros((2, 8), jnp.int32))
