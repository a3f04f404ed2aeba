"""Twenty steps on every kind of mesh: one run, however it is spread."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bias_clip.models import pallas_attention
from bias_clip.train.config_io import load_config
from bias_clip.train.evaluation import make_evaluation
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import (
    make_layout,
    make_mesh,
    path_name,
    replicated,
    state_shardings,
    to_global,
    tree_shardings,
)
from bias_clip.train.workdir.load_run import Trained, as_stage
from tests.train.test_step import batches
from tests.train.tiny import tiny_config

STEPS = 20
CONFIGS = Path(__file__).parents[2] / "configs"
# SigLIP B/16 on data=2, fsdp=2, tensor=2: (between steps, in the towers).
B16 = {
    "img/embedding/kernel": ((None, None, None, "fsdp"), ()),
    "img/encoder/blocks/attention/query/kernel": (
        (None, "fsdp", "tensor", None),
        (None, None, "tensor", None),
    ),
    "img/encoder/blocks/attention/out/kernel": (
        (None, "tensor", None, "fsdp"),
        (None, "tensor", None, None),
    ),
    "txt/encoder/blocks/mlp/fc1/kernel": ((None, "fsdp", "tensor"), (None, None, "tensor")),
    "txt/encoder/blocks/mlp/fc2/kernel": ((None, "tensor", "fsdp"), (None, "tensor", None)),
    "txt/encoder/blocks/norm1/scale": ((), ()),
    "txt/embedding": (("tensor", "fsdp"), ("tensor", None)),
    "txt/head/kernel": ((None, "fsdp"), ()),
    "log_scale": ((), ()),
}
CACHED = {"accumulation__mode": "cached", "accumulation__steps": 2}
PALLAS = {"model__attention": "pallas"}  # interpreted here


def start(sizes, **changes):
    data, fsdp, tensor = sizes
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)
    config = tiny_config(total=f"{STEPS} steps", ema_decay=0.9, **changes)
    setup = make_setup(config, mesh=mesh, examples_per_epoch=40)
    image = setup.abstract_batch["image"]  # bytes; the batches here are what they stand for
    images = jax.ShapeDtypeStruct(image.shape, jnp.float32, sharding=image.sharding)
    batch = {**setup.abstract_batch, "image": images}
    step = setup.train_step.lower(setup.abstract_state, batch).compile()
    return setup, step


def run(setup, step):
    state = setup.init(jax.random.key(0))
    history = []
    for batch in batches(STEPS):
        state, metrics = step(state, to_global(batch, setup.mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture(scope="module")
def one_device():
    return run(*start((1, 1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "changes"),
    [
        ((8, 1, 1), {}),
        ((4, 2, 1), {}),
        ((2, 2, 2), {}),
        ((2, 2, 2), CACHED),
        ((2, 2, 2), PALLAS),
        ((4, 1, 2), PALLAS | CACHED),
    ],
    ids=["data", "fsdp", "tensor", "tensor-cached", "kernel", "kernel-cached"],
)
def test_metrics_of_twenty_steps_are_those_of_one_device(one_device, sizes, changes, monkeypatch):
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 64)
    setup, step = start(sizes, **changes)
    if "model__attention" not in changes:
        check_rows(step.as_text(), rows=16 // (sizes[0] * sizes[1]), heads=2 // sizes[2], **changes)
    state, history = run(setup, step)
    for got, expected in zip(history, one_device[1], strict=True):
        # float32 sums in another order; Adam divides small gradients by small roots
        assert got == pytest.approx(expected, rel=1e-3, abs=1e-3)
    check_shards(state, sizes)


def check_rows(text, *, rows, heads, **changes):
    """The attention of the compiled step, 4 patches or 8 tokens, is over this device's rows only."""
    rows //= changes.get("accumulation__steps", 1)
    found = re.findall(r"= f32\[([\d,]+),(?:4,4|8,8)\]\S* dot\(", text)
    sizes = {math.prod(int(size) for size in lead.split(",")) for lead in found}
    assert sizes == {rows * heads}


def check_shards(state, sizes):
    _, fsdp, tensor = sizes
    moments = state.opt_state[1]
    for tree in (state.params, state.ema, moments.mu, moments.nu):
        block = tree["img"]["encoder"]["blocks"]
        query, fc2 = block["attention"]["query"]["kernel"], block["mlp"]["fc2"]["kernel"]
        assert query.addressable_shards[0].data.shape == (1, 32 // fsdp, 2 // tensor, 16)
        for leaf in (query, fc2, tree["txt"]["embedding"]):
            assert leaf.addressable_shards[0].data.size == leaf.size // (fsdp * tensor)


def evaluated(setup, config, params):
    make_evaluation(
        {},
        model=setup.model,
        mesh=setup.mesh,
        image=config.evaluation.image,
        text=config.data.text.to_dict(),
        batch_size=16,
    )(params)


def embedded(setup, config, params):
    as_stage(Trained(Path(), 8, config, setup.model, params, setup.mesh), 16)


@pytest.mark.parametrize("take", [evaluated, embedded])
def test_outside_of_training_too_a_device_computes_its_own_rows_alone(take, monkeypatch):
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 64)
    config = tiny_config()
    setup = make_setup(config, mesh=make_mesh(fsdp=2, tensor=2), examples_per_epoch=40)
    apply, used = setup.model.apply, []
    recording = setup.model._replace(apply=lambda params: used.append(params) or apply(params))
    take(setup._replace(model=recording), config, setup.init(jax.random.key(0)).params)
    image = jax.jit(lambda p, x: apply(p, image=x).zimg, out_shardings=replicated(setup.mesh))
    batch = setup.abstract_batch["image"]
    images = jax.ShapeDtypeStruct(batch.shape, jnp.float32, sharding=batch.sharding)
    text = image.lower(used[0], images).compile().as_text()
    check_rows(text, rows=4, heads=1)


def test_outside_of_training_too_a_kernel_knows_the_mesh(monkeypatch):
    run, parts = pallas_attention._run, []

    def recording(kernel, length, size, q, *rest, **fixed):
        parts.append((q.shape[0] // length, q.shape[1] // size))
        return run(kernel, length, size, q, *rest, **fixed)

    monkeypatch.setattr(pallas_attention, "_run", recording)
    images = np.random.default_rng(0).uniform(-1, 1, (16, 16, 16, 3)).astype(np.float32)

    def embeddings(**changes):
        config = tiny_config(**changes)
        setup = make_setup(config, mesh=make_mesh(fsdp=2, tensor=2), examples_per_epoch=40)
        params = setup.init(jax.random.key(0)).params
        stage = as_stage(Trained(Path(), 8, config, setup.model, params, setup.mesh), 16)
        return np.asarray(stage.image(images))

    np.testing.assert_allclose(embeddings(**PALLAS), embeddings(), rtol=1e-4, atol=1e-5)
    assert set(parts) == {(16 // 4, 2 // 2)}  # examples and heads of one of 4 x 2 devices


def test_layout_of_siglip_is_the_one_that_was_reviewed():
    config = load_config(CONFIGS / "siglip_b16.py")
    held, used = layout_of(config, fsdp=2, tensor=2)
    for name, (between, inside) in B16.items():
        assert held[name][1].spec == PartitionSpec(*between), name
        assert used[name].is_equivalent_to(
            NamedSharding(used[name].mesh, PartitionSpec(*inside)), len(held[name][0])
        ), name


def test_fsdp_splits_every_large_leaf_over_its_axis_and_the_towers_get_it_whole():
    held, used = layout_of(load_config(CONFIGS / "siglip_b16.py"), fsdp=4)
    for name, (shape, sharding) in held.items():
        parts = math.prod(shape) // math.prod(sharding.shard_shape(shape))
        assert parts == (4 if math.prod(shape) >= 2**14 else 1), name
        assert used[name].is_fully_replicated, name


def layout_of(config, **sizes):
    """{path: (shape, sharding between steps)}, {path: sharding in the towers}."""
    setup = make_setup(config, mesh=make_mesh(**sizes), examples_per_epoch=None)
    params = setup.abstract_state.params
    layout = make_layout(jax.tree.map(lambda x: x.sharding, params))
    held = {path_name(w): (x.shape, x.sharding) for w, x in leaves_of(params)}
    return held, {path_name(where): sharding for where, sharding in leaves_of(layout.used)}


def leaves_of(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


@pytest.mark.slow
def test_bad_images_change_nothing_but_the_counters():
    setup, step = start((2, 1, 2))
    (first, second) = (to_global(batch, setup.mesh) for batch in batches(2))
    state, metrics = step(setup.init(jax.random.key(0)), first)
    assert metrics["skipped"] == 0
    before = copy_of(state)
    bad = {**second, "image": second["image"].at[3, 0, 0, 0].set(np.nan)}
    bad = jax.device_put(bad, jax.tree.map(lambda x: x.sharding, second))
    for count in (1, 2):
        state, metrics = step(state, bad)
        got = [int(metrics[key]) for key in ("skipped", "skipped_total", "skipped_in_row")]
        assert got == [1, count, count]
    jax.tree.map(np.testing.assert_array_equal, copy_of(state), before)
    assert int(state.step) == 3
    state, metrics = step(state, second)
    got = [int(metrics[key]) for key in ("skipped", "skipped_total", "skipped_in_row")]
    assert got == [0, 2, 0]
    moved = copy_of(state).ema["txt"]["embedding"] - before.ema["txt"]["embedding"]
    assert np.abs(moved).max() > 0


def copy_of(state):
    """All but the counters; copied, since a step takes the buffers."""
    return jax.tree.map(np.array, state._replace(skipped=None, step=None))


@pytest.mark.parametrize("name", ["adafactor", "adamw", "lion", "muon", "sgd"])
def test_optimiser_state_lies_where_its_parameters_lie(name, monkeypatch):
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 64)
    config = tiny_config()
    with config.unlocked():
        config.optimizer = dict(name=name, lr=1e-3)
    state = make_setup(config, mesh=make_mesh(fsdp=2, tensor=2), examples_per_epoch=40)
    state = state.abstract_state
    params = [(leaf.shape, leaf.sharding.spec) for leaf in jax.tree.leaves(state.params)]
    moments = [(leaf.shape, leaf.sharding.spec) for leaf in jax.tree.leaves(state.opt_state)]
    large = [(shape, spec) for shape, spec in params if np.prod(shape) > 1_000]
    assert len(large) > 20
    for pair in large:  # one or two moments of each
        assert moments.count(pair) in (params.count(pair), 2 * params.count(pair))


def test_factored_moment_has_the_axes_of_the_dimensions_it_kept():
    mesh = make_mesh(fsdp=2, tensor=2)
    shape = {"kernel": jax.ShapeDtypeStruct((6, 4, 8), np.float32)}
    shardings = tree_shardings(shape, [("kernel$", (None, "tensor", "fsdp"))], mesh)
    sizes = {"row": (6, 4), "col": (6, 8), "count": (), "one": (1,)}
    state = {
        name: {"kernel": jax.ShapeDtypeStruct(size, np.float32)} for name, size in sizes.items()
    }
    got = state_shardings(state, shape, shardings)
    assert got["row"]["kernel"].spec == PartitionSpec(None, "tensor")
    assert got["col"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert got["count"]["kernel"].spec == got["one"]["kernel"].spec == PartitionSpec()
    assert make_layout(shardings).used["kernel"].spec == PartitionSpec(None, "tensor", None)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("tensor@-1,fsdp", (None, "fsdp", "tensor")),
        ("fsdp,tensor@-2", (None, "tensor", "fsdp")),
        ("tensor@0?", ()),  # 3 layers over 2 devices
        ("fsdp@1", (None, "fsdp", None)),
    ],
)
def test_rule_can_name_both_axes(spec, expected):
    leaf = jax.ShapeDtypeStruct((3, 256, 512), np.float32)
    got = tree_shardings({"w": leaf}, [("w", spec)], make_mesh(fsdp=2, tensor=2))
    assert got["w"].spec == PartitionSpec(*expected)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tensor", "write 'tensor@-1'"),
        ("tensors@1", "is not 'replicate'"),
        ("tensor@1,fsdp@1", "twice"),
        ("tensor@3", "has no dimension 3"),
        ("tensor@0", "does not divide 3; change mesh.tensor or the rule"),
    ],
)
def test_rule_that_cannot_be_followed_is_refused(spec, message):
    leaf = jax.ShapeDtypeStruct((3, 256, 512), np.float32)
    with pytest.raises(ValueError, match=message):
        tree_shardings({"w": leaf}, [("w", spec)], make_mesh(fsdp=2, tensor=2))
