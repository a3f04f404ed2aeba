"""The update is the published formula, layer by layer, and says no to rules that do nothing."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bias_clip.models.two_towers import make_model
from bias_clip.train.optim import (
    KERNELS,
    first_match,
    frozen_leaves,
    init_ema,
    make_optimizer,
    update_ema,
)
from bias_clip.train.optim.transforms import TRANSFORMS, make_transform
from bias_clip.train.sharding import path_name

NAMES = sorted(TRANSFORMS)


def constant(step):
    del step
    return 1.0


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(params, grads, **arguments):
    """Updates of each step; parameters stay, so that every step shows the optimiser alone."""
    tx = make_optimizer(params, **({"lr": 1.0, "schedule": constant} | arguments))
    update = jax.jit(tx.update)
    state, updates = tx.init(params), []
    for grad in grads:
        delta, state = update(grad, state, params)
        updates.append(delta)
    return updates


def leaves_by_path(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_trees_close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


# Adafactor


def adafactor_in_numpy(grads, *, b2, min_size=32, b1=0.9, eps=1e-30):
    """The papers' equations for one matrix or vector, in float64; R, C: row and column means."""
    v = rows = columns = momentum = 0.0
    updates = []
    for step, grad in enumerate(np.float64(grads)):
        beta = min(b2, 1 - (step + 1) ** -0.8)
        square = grad**2 + eps
        if grad.ndim == 2 and min(grad.shape) >= min_size:
            rows = beta * rows + (1 - beta) * square.mean(axis=1, keepdims=True)
            columns = beta * columns + (1 - beta) * square.mean(axis=0, keepdims=True)
            second = rows @ columns / rows.mean()
        else:
            second = v = beta * v + (1 - beta) * square
        momentum = b1 * momentum + (1 - b1) * grad / np.sqrt(second)
        updates.append(momentum)
    return updates


SHAPES = {"wide": (40, 48), "tall": (48, 40), "vector": (37,), "small": (8, 48), "thin": (31, 48)}


@pytest.mark.parametrize(
    ("b2", "mu_dtype", "rtol"), [(0.5, "float32", 1e-5), (0.95, "bfloat16", 2e-2)]
)
def test_adafactor_is_the_published_formula(b2, mu_dtype, rtol):
    """0.5 caps the decay from the third step on; 0.95 would after 42.

    bfloat16 has 8 bits: 0.4% of the momentum, twice, and more where it cancels.
    """
    draw = lambda seed: {k: normal(seed + i, *s) for i, (k, s) in enumerate(SHAPES.items())}  # noqa: E731
    grads = [
        jax.tree.map(lambda x, f=f: f * x, draw(i)) for i, f in enumerate((1.0, 10.0, 0.1, 1.0))
    ]
    params = jax.tree.map(jnp.zeros_like, grads[0])
    updates = run(params, grads, name="adafactor", b2=b2, mu_dtype=mu_dtype)
    for key in SHAPES:
        expected = adafactor_in_numpy([g[key] for g in grads], b2=b2)
        got = [-u[key] for u in updates]
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * 0.1, err_msg=key)


def test_adafactor_keeps_rows_and_columns_of_large_matrices_only():
    params = {"large": jnp.zeros((40, 50)), "small": jnp.zeros((31, 50)), "bias": jnp.zeros(50)}
    tx = make_optimizer(params, name="adafactor", lr=1.0, schedule=constant)
    sizes = {name: x.size for name, x in leaves_by_path(tx.init(params)).items()}
    second = {
        k: sum(s for n, s in sizes.items() if n.endswith((f"v/{k}", f"v_row/{k}", f"v_col/{k}")))
        for k in params
    }
    assert second == {"large": 40 + 50 + 1, "small": 31 * 50 + 2, "bias": 50 + 2}
    momenta = {x.dtype for n, x in leaves_by_path(tx.init(params)).items() if "/ema/" in n}
    assert momenta == {jnp.dtype("bfloat16")}


# Layers in a stack


def stacked_params(seed, *, depth, width, head=8):
    shapes = {
        "fc": {"kernel": (width + 1, width), "bias": (width,)},
        "query": {"kernel": (width, 2, head), "bias": (2, head)},
        "out": {"kernel": (2, head, width), "bias": (width,)},
    }
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=(depth, *shape)).astype(np.float32)  # noqa: E731
    blocks = jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))
    return {"img": {"blocks": blocks}, "positions": draw((width,))}


def unstack(tree, depth):
    blocks = tree["img"]["blocks"]
    layers = {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(depth)}
    return layers | {"positions": tree["positions"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_stack_is_updated_as_its_layers_would_be(name):
    """Adafactor's trap: a stack deeper than wide, and than the smallest factored size.

    All moments in float32, since bfloat16 would round two equal sums apart.
    """
    arguments = {"mu_dtype": "float32"}
    arguments |= {"adafactor": {"min_size": 3}, "muon": {"num_iterations": 1}}.get(name, {})
    depth = 5 if name == "adafactor" else 2
    params, *grads = (stacked_params(seed, depth=depth, width=4, head=3) for seed in range(4))
    together = run(params, grads, name=name, **arguments)
    apart = run(unstack(params, depth), [unstack(g, depth) for g in grads], name=name, **arguments)
    for got, expected in zip(together, apart, strict=True):
        assert_trees_close(unstack(got, depth), expected, rtol=1e-4, atol=1e-6)


# The chain


def small_params():
    return {
        "img": {"blocks": {"kernel": normal(0, 2, 5, 4), "bias": normal(1, 2, 4)}},
        "txt": {"head": {"kernel": normal(2, 4, 3), "bias": normal(3, 3)}},
        "bias": np.float32(-10.0),
    }


def test_update_is_clip_transform_lr_mult_decay_schedule_sign():
    params = small_params()
    grads = jax.tree.map(lambda x: x + 1, params)
    (got,) = run(
        params,
        [grads],
        name="sgd",
        momentum=0.0,
        lr=0.01,
        schedule=lambda step: 0.5 + step,
        clip_norm=2.0,
        weight_decay=0.1,
        decay=(("^txt/.*kernel$", 0.25), ("kernel$", 2.0)),
        lr_mults=(("^img/", 3.0),),
    )
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    assert norm > 2

    def expected(path, param, grad):
        lr = 0.01 * (3 if path.startswith("img") else 1)
        decay = {"img/blocks/kernel": 2.0, "txt/head/kernel": 0.25}.get(path, 0.0)
        return -0.5 * (lr * grad * 2 / norm + 0.1 * decay * param)

    by_path = {
        p: expected(p, x, leaves_by_path(grads)[p]) for p, x in leaves_by_path(params).items()
    }
    assert_trees_close(leaves_by_path(got), by_path, rtol=1e-5)


def test_gradient_below_the_norm_is_not_clipped():
    params = small_params()
    grads = jax.tree.map(lambda x: x * 1e-3, params)
    plain, clipped = (
        run(params, [grads], name="sgd", momentum=0.0, clip_norm=norm) for norm in (None, 1.0)
    )
    assert_trees_close(plain, clipped, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_without_gradient_kernels_shrink_by_schedule_times_decay_whatever_lr(name):
    """The law of decoupled decay; optax.adamw would shrink by lr * schedule * weight_decay."""
    params = small_params()
    tx = make_optimizer(
        params,
        name=name,
        lr=3.0,
        schedule=lambda step: 0.5 / (1 + step),
        weight_decay=0.25,
        lr_mults=(("^img/", 7.0),),
    )
    zeros, state, moved = jax.tree.map(np.zeros_like, params), tx.init(params), params
    update = jax.jit(tx.update)
    for step in range(3):
        updates, state = update(zeros, state, moved)
        before, moved = moved, optax.apply_updates(moved, updates)
        for path, param in leaves_by_path(moved).items():
            shrink = 1 - 0.25 * 0.5 / (1 + step) if path.endswith("kernel") else 1.0
            np.testing.assert_allclose(param, leaves_by_path(before)[path] * shrink, rtol=2e-7)


def test_adamw_is_optax_adamw_with_decay_over_lr():
    params, lr, decay = small_params(), 1e-2, 1e-3
    grads = [jax.tree.map(lambda x, k=k: np.cos(k * x), params) for k in (1, 2, 3)]
    got = run(params, grads, name="adamw", lr=lr, weight_decay=decay, decay=((".", 1.0),))
    tx = optax.adamw(lr, b2=0.95, weight_decay=decay / lr)
    state = tx.init(params)
    for grad, update in zip(grads, got, strict=True):
        expected, state = jax.jit(tx.update)(grad, state, params)
        assert_trees_close(update, expected, rtol=1e-5, atol=1e-7)


def test_first_update_uses_the_schedule_at_zero():
    params = {"kernel": np.ones((2, 2), np.float32)}
    updates = run(params, [params] * 3, name="sgd", momentum=0.0, schedule=lambda step: step / 2)
    np.testing.assert_allclose([-u["kernel"][0, 0] for u in updates], [0, 0.5, 1.0])


@pytest.mark.parametrize("name", NAMES)
def test_descends_a_bowl(name):
    params = {"kernel": jnp.asarray(normal(0, 32, 33)), "bias": jnp.asarray(normal(1, 33))}
    tx = make_optimizer(params, name=name, lr=0.03, schedule=constant, clip_norm=1.0)
    loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))  # noqa: E731

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (end, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=20))(params)
    assert loss(end) < 0.9 * loss(params)


# Freezing


@pytest.mark.parametrize("name", ["adafactor", "adamw", "muon"])
def test_frozen_is_as_if_it_were_not_there(name):
    """No update, no decay, no state, and no part in the norm that clips the others."""
    params = small_params()
    grads = [jax.tree.map(lambda x, k=k: np.cos(k * x) * 5, params) for k in (1, 2)]
    arguments = {"name": name, "weight_decay": 0.1, "clip_norm": 1.0}
    frozen = run(params, grads, freeze=("^txt/", "^bias$"), **arguments)
    drop = lambda tree: {"img": tree["img"]}  # noqa: E731
    alone = run(drop(params), [drop(g) for g in grads], **arguments)
    for got, expected in zip(frozen, alone, strict=True):
        assert_trees_close(drop(got), expected, rtol=1e-6)
        assert not any(np.any(x) for x in jax.tree.leaves([got["txt"], got["bias"]]))
    with_frozen, without = (
        make_optimizer(p, lr=1.0, schedule=constant, freeze=freeze, **arguments).init(p)
        for p, freeze in ((params, ("^txt/", "^bias$")), (drop(params), ()))
    )
    shapes = lambda state: [x.shape for x in jax.tree.leaves(state)]  # noqa: E731
    assert shapes(with_frozen) == shapes(without)


def test_frozen_leaves_are_told():
    got = frozen_leaves(small_params(), freeze=("^txt/.*bias$",))
    assert [path for path, frozen in leaves_by_path(got).items() if frozen] == ["txt/head/bias"]


# State


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("freeze", [(), ("^bias$",)])
def test_state_needs_shapes_only_and_is_named_after_the_parameters(name, freeze):
    """What sharding rules and checkpoints rely on."""
    params = small_params()
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, params))
    tx = make_optimizer(shapes, name=name, lr=1.0, schedule=constant, freeze=freeze)
    abstract, state = jax.eval_shape(tx.init, shapes), tx.init(params)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    for path, leaf in leaves_by_path(abstract).items():
        assert leaf.shape == leaves_by_path(state)[path].shape
        named = any(path.endswith("/" + parameter) for parameter in leaves_by_path(shapes))
        assert named or path.endswith(("/count", "/ns_coeffs")), path


@pytest.mark.parametrize(
    ("name", "moments"),
    [("adamw", 2), ("lion", 1), ("sgd", 1), ("muon", {"kernel": 1, "bias": 2})],
)
def test_moments_are_shaped_like_their_parameters(name, moments):
    params = leaves_by_path(small_params())
    tx = make_optimizer(small_params(), name=name, lr=1.0, schedule=constant)
    found = {path: [] for path in params}
    for path, leaf in leaves_by_path(tx.init(small_params())).items():
        *_, parameter = re.split("/(?:mu|nu|trace)/", path)
        if parameter != path:
            found[parameter].append(leaf.shape)
    for path, shapes in found.items():
        many = moments if isinstance(moments, int) else moments[path.split("/")[-1]]
        assert shapes == [params[path].shape] * many


# Muon


def test_muon_orthogonalises_the_matrix_that_the_bias_tells():
    sizes = {"depth": 2, "width": 16, "head": 16}
    (update,) = run(stacked_params(0, **sizes), [stacked_params(1, **sizes)], name="muon")
    matrices = {"fc": (17, 16), "query": (16, 32), "out": (32, 16)}
    for name, (inputs, outputs) in matrices.items():
        for layer in np.asarray(update["img"]["blocks"][name]["kernel"]):
            singular = np.linalg.svd(layer.reshape(inputs, outputs), compute_uv=False)
            # Five iterations bring singular values near one, not to one; only a tiny one stays away.
            near_one = singular / (0.2 * np.sqrt(max(inputs, outputs)))
            assert 0.4 < np.median(near_one) <= near_one.max() < 1.4
            assert 0.1 < np.sqrt(np.mean(layer**2)) < 0.3, "as large as Adam's entries"


def test_muon_without_rms_scales_by_shape():
    params = {"kernel": normal(0, 8, 32)}
    (ours,) = run(params, [params], name="muon", rms=None)
    (by_rms,) = run(params, [params], name="muon", rms=1.0)
    ratio = np.sqrt(32 / 8) / np.sqrt(32)
    np.testing.assert_allclose(ours["kernel"], by_rms["kernel"] * ratio, rtol=1e-5)


def test_muon_is_adam_beside_the_matrices():
    params = {
        "positions": normal(0, 8, 6),
        "norm": {"scale": normal(1, 6)},
        "tokens": {"embedding": normal(2, 9, 6)},
        "cube": {"kernel": normal(3, 4, 5, 6)},  # no bias to tell its inputs from its outputs
        "fc": {"kernel": normal(4, 6, 6), "bias": normal(5, 6)},
    }
    grads = [jax.tree.map(np.cos, params), params]
    muon, adam = (run(params, grads, name=name) for name in ("muon", "adamw"))
    for got, expected in zip(muon, adam, strict=True):
        assert np.max(np.abs(got["fc"].pop("kernel") - expected["fc"].pop("kernel"))) > 0.1
        assert_trees_close(got, expected, rtol=1e-5)


# Rules


def published_shapes():
    """Leaves of SigLIP B/16-224 as released, one encoder block per name; 203,155,970 parameters."""

    def dense(inputs, outputs):
        return {"kernel": (*inputs, *outputs), "bias": outputs}

    def attention():
        heads = {name: dense((768,), (12, 64)) for name in ("query", "key", "value")}
        return heads | {"out": dense((12, 64), (768,))}

    norm = {"scale": (768,), "bias": (768,)}
    mlp = {"Dense_0": dense((768,), (3072,)), "Dense_1": dense((3072,), (768,))}
    block = {"LayerNorm_0": norm, "LayerNorm_1": norm, "attention": attention(), "mlp": mlp}
    encoder = {f"encoderblock_{i}": block for i in range(12)} | {"encoder_norm": norm}
    head = {"probe": (1, 1, 768), "LayerNorm_0": norm, "mlp": mlp, "attention": attention()}
    img = {"embedding": dense((16, 16, 3), (768,)), "pos_embedding": (1, 196, 768)}
    txt = {"Embed_0": {"embedding": (32000, 768)}, "pos_embedding": (1, 64, 768)}
    tree = {
        "img": img | {"Transformer": encoder, "MAPHead_0": head},
        "txt": txt | {"Encoder_0": encoder, "head": dense((768,), (768,))},
        "t": (1,),
        "b": (1,),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        tree,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def test_default_decay_takes_the_152_kernels_of_siglip():
    shapes = published_shapes()
    sizes = [x.size for x in jax.tree.leaves(shapes)]
    assert (len(sizes), sum(sizes)) == (412, 203_155_970)
    ones = jax.tree.map(lambda x: np.ones(1, np.float32), shapes)  # paths decide, not shapes
    (update,) = run(
        ones, [jax.tree.map(np.zeros_like, ones)], name="sgd", momentum=0.0, weight_decay=1e-4
    )
    decayed = [path for path, x in leaves_by_path(update).items() if np.any(x)]
    assert len(decayed) == 152
    assert all(path.endswith("/kernel") for path in decayed)


def second_moments(shapes):
    """Paths whose second moment is kept in full, and the size of what is kept of the others."""
    tx = make_optimizer(shapes, name="adafactor", lr=1.0, schedule=constant)
    state, full, factored = leaves_by_path(jax.eval_shape(tx.init, shapes)), set(), 0
    for path, x in leaves_by_path(shapes).items():
        v, row, column = (state[f"1/0/{part}/{path}"] for part in ("v", "v_row", "v_col"))
        if v.shape == x.shape:
            full.add(path)
        else:
            factored += row.size + column.size
    return full, factored


def test_our_stacked_siglip_is_optimised_as_the_published_one():
    """Same weights decayed, same second moments kept, though there are 60 leaves and not 412."""
    model = make_model(
        image={"variant": "B/16", "size": 224},
        text={"variant": "B", "vocab_size": 32_000, "length": 64, "out_dim": 768},
    )
    ours, theirs = jax.eval_shape(model.init, jax.random.key(0)), published_shapes()
    totals = []
    for tree in (ours, theirs):
        rules = first_match(tree, KERNELS, default=0.0, what="decay")
        decayed = jax.tree.map(lambda x, m: x.size * m, tree, rules)
        full, factored = second_moments(tree)
        assert {p for p in full if p.endswith("kernel")} == {"img/embedding/kernel"}
        totals.append((sum(jax.tree.leaves(decayed)), factored))
    assert totals[0] == totals[1]
    assert totals[0][1] < 0.01 * 203_155_970


def test_first_rule_wins_and_the_rest_get_the_default():
    rules = [("^txt/.*kernel$", "a"), ("kernel$", "b"), ("^img/", "c")]
    got = leaves_by_path(first_match(small_params(), rules, default="d", what="rules"))
    assert got == {
        "img/blocks/kernel": "b",
        "img/blocks/bias": "c",
        "txt/head/kernel": "a",
        "txt/head/bias": "d",
        "bias": "d",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "adamax"}, "adafactor.*adamw.*lion.*muon.*sgd"),
        ({"beta2": 0.9}, "b2"),
        ({"mu_dtype": "float16"}, "bfloat16"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"weight_decay": 1.0}, "not multiplied by lr"),
        ({"clip_norm": 0.0}, "None"),
        ({"freeze": ("^image/",)}, "'\\^image/'.* none of 5 .*img/blocks/kernel"),
        ({"freeze": "^img/"}, "sequence"),
        ({"freeze": (".",)}, "leaves no parameter"),
        ({"lr_mults": (("^image/", 0.1),)}, "lr_mults.* none of 5"),
        ({"lr_mults": (("^img/", 0.0),)}, "freeze"),
        ({"lr_mults": (("^img/", "0.1"),)}, "a number"),
        ({"lr_mults": ("^img/", 0.1)}, "pairs"),
        ({"lr_mults": (("^img/(", 0.1),)}, "not a regex"),
        ({"weight_decay": 0.1, "decay": (("kernels$", 1.0),)}, "decay.* none of 5"),
        ({"weight_decay": 0.1, "decay": (("kernel$", 1.0), ("^txt/.*kernel$", 0.0))}, "narrower"),
        ({"weight_decay": 0.1, "decay": (("kernel$", -1.0),)}, "at least 0"),
    ],
)
def test_bad_optimizer_is_an_error(arguments, message):
    arguments = {"name": "adamw", "lr": 1e-3, "schedule": constant} | arguments
    with pytest.raises(ValueError, match=message):
        make_optimizer(small_params(), **arguments)


def test_transforms_refuse_arguments_of_others():
    with pytest.raises(ValueError, match="momentum"):
        make_transform({"w": jnp.zeros(2)}, {"w": False}, name="sgd", b1=0.9)


# Average


def test_average_follows_its_formula_from_the_first_step():
    params = [{"w": normal(seed, 3)} for seed in range(4)]
    ema, expected = init_ema(params[0]), np.float64(params[0]["w"])
    for step, new in enumerate(params[1:], start=1):
        ema = jax.jit(update_ema, static_argnames="decay")(ema, new, decay=0.2, step=step)
        rate = [2 / 11, 0.2, 0.2][step - 1]  # 2/11 is the warm-up, then it is capped
        expected = rate * expected + (1 - rate) * new["w"]
        np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)


def test_average_of_what_stands_still_stands_still_and_is_a_copy():
    params = {"w": jnp.asarray(normal(0, 3))}
    ema = init_ema(params)
    assert ema["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
    moved = update_ema(ema, params, decay=0.999, step=jnp.int32(7))
    np.testing.assert_array_equal(moved["w"], params["w"])


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_of_the_average_is_below_one(decay):
    with pytest.raises(ValueError, match="decay"):
        update_ema({}, {}, decay=decay, step=1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("adamw", {"b2": 2.0}, "b2 must be in"),
        ("adamw", {"b1": 1.0}, "b1 must be in"),
        ("adafactor", {"min_size": 0}, "min_size must be positive"),
        ("lion", {"b1": -0.1}, "b1 must be in"),
        ("muon", {"num_iterations": 0}, "num_iterations must be positive"),
        ("sgd", {"momentum": 1.5}, "momentum must be in"),
    ],
)
def test_numbers_of_transforms_out_of_range_are_refused(name, arguments, message):
    params = {"kernel": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match=message):
        make_optimizer(params, name=name, lr=1.0, schedule=lambda step: 1.0, **arguments)
