"""One step of training: equal on any mesh, and a step of descent."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bias_clip.plan.flops import count_flops
from bias_clip.train.accumulate import Gradient
from bias_clip.train.config_io import load_config
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh, to_global
from bias_clip.train.state import init_state
from bias_clip.train.step import make_train_step
from tests.train.tiny import tiny_config


def batches(count, rows=16):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield {
            "image": rng.normal(size=(rows, 16, 16, 3)).astype(np.float32),
            "text": rng.integers(3, 2000, (rows, 8)).astype(np.int32),
            "text_id": rng.integers(0, 12, rows).astype(np.int32),
        }


def run(mesh, steps=3, **changes):
    setup = make_setup(tiny_config(**changes), mesh=mesh, examples_per_epoch=40)
    state = setup.init(jax.random.key(0))
    history = []
    for batch in batches(steps):
        state, metrics = setup.train_step(state, to_global(batch, mesh))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture(scope="module")
def one_device():
    return run(make_mesh(devices=jax.devices()[:1]), ema_decay=0.9)


@pytest.mark.parametrize(
    "axes", [{}, {"fsdp": 8}, pytest.param({"fsdp": 4}, marks=pytest.mark.slow)]
)
def test_eight_devices_equal_one(one_device, axes, monkeypatch):
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 64)
    mesh = make_mesh(**axes)
    state, history = run(mesh, ema_decay=0.9)
    for got, expected in zip(history, one_device[1], strict=True):
        # float32 sums in another order; Adam divides small gradients by small roots
        assert got == pytest.approx(expected, rel=2e-4, abs=2e-4)
    for got, expected in zip(jax.tree.leaves(state), jax.tree.leaves(one_device[0]), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-4)
    if axes:
        kernel = state.params["img"]["encoder"]["blocks"]["mlp"]["fc1"]["kernel"]
        assert not kernel.sharding.is_fully_replicated


def test_a_step_on_bytes_is_one_on_what_they_stand_for():
    setup = make_setup(tiny_config(), mesh=make_mesh(), examples_per_epoch=40)
    assert setup.abstract_batch["image"].dtype == jnp.uint8
    batch = next(batches(1))
    pixels = np.random.default_rng(0).integers(0, 256, batch["image"].shape, dtype=np.uint8)
    metrics = []
    for image in (pixels, value_range_of(pixels)):
        batch["image"] = image
        state = setup.init(jax.random.key(0))
        metrics.append(setup.train_step(state, to_global(batch, setup.mesh))[1])
    for name, value in metrics[0].items():
        np.testing.assert_allclose(value, metrics[1][name], rtol=1e-5, atol=1e-6, err_msg=name)


def value_range_of(pixels):
    return (pixels / 127.5 - 1).astype(np.float32)


def test_a_config_that_leaves_no_range_to_the_device_is_refused():
    config = tiny_config()
    config.data.image = "decode|resize(16)"
    with pytest.raises(
        ValueError, match=r"data.image is .*expected value_range or normalize as the last"
    ):
        make_setup(config, mesh=make_mesh(), examples_per_epoch=40)


def test_fsdp_shards_the_optimiser_state_like_its_parameters(monkeypatch):
    monkeypatch.setattr("bias_clip.train.sharding.MIN_FSDP_SIZE", 64)
    setup = make_setup(tiny_config(), mesh=make_mesh(fsdp=8), examples_per_epoch=40)
    whole = [leaf for leaf in jax.tree.leaves(setup.abstract_state) if leaf.size > 2_000]
    assert len(whole) > 10
    assert all(not leaf.sharding.is_fully_replicated for leaf in whole)


def test_health_is_computed_on_logged_steps_only(one_device):
    first, second, _ = one_device[1]
    assert first["scale"] == 0.0
    assert second["scale"] == pytest.approx(10.0, rel=0.01)


def test_loss_falls_on_a_batch_that_is_seen_again():
    mesh = make_mesh()
    setup = make_setup(tiny_config(schedule__warmup="1 steps"), mesh=mesh, examples_per_epoch=40)
    state, losses = setup.init(jax.random.key(0)), []
    (batch,) = batches(1)
    for _ in range(6):
        state, metrics = setup.train_step(state, to_global(batch, mesh))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]


def test_start_up_loss_is_the_closed_form():
    # 16 rows, scale 10, bias -10, cosines near 0: softplus(10) + 15 softplus(-10), spread by +-5
    _, history = run(make_mesh(), steps=1, objective__sigmoid__duplicates="keep")
    assert history[0]["loss"] == pytest.approx(10.0, abs=1.5)


def test_ema_follows_the_parameters(one_device):
    state = one_device[0]
    distance = jax.tree.map(lambda e, p: float(abs(e - p).max()), state.ema, state.params)
    assert 0 < max(jax.tree.leaves(distance)) < 0.1


def test_batch_that_does_not_divide_is_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="20 does not divide over 8 devices; try 16"):
        make_setup(tiny_config(batch_size=20), mesh=make_mesh(), examples_per_epoch=40)


def test_two_terms_add_up():
    changes = {"objective": {"sigmoid": {"coef": 1.0}, "softmax": {"coef": 0.5}}}
    config = tiny_config()
    with config.unlocked():
        config.update(changes)
    mesh = make_mesh()
    setup = make_setup(config, mesh=mesh, examples_per_epoch=40)
    (batch,) = batches(1)
    _, metrics = setup.train_step(setup.init(jax.random.key(0)), to_global(batch, mesh))
    expected = float(metrics["term_sigmoid"]) + 0.5 * float(metrics["term_softmax"])
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-6)


def guarded_step(*, with_guard=True, max_grad_norm=2.0):
    """Descent with momentum on a gradient and a loss that are the batch itself."""
    tx = optax.sgd(0.1, momentum=0.9)
    state = init_state(
        jax.random.key(0),
        init=lambda _: {"w": jnp.ones(3)},
        tx=tx,
        with_ema=True,
        with_guard=with_guard,
    )
    step = make_train_step(
        gradient=lambda params, batch: Gradient(batch["loss"], {}, None, {"w": batch["grad"]}),
        tx=tx,
        health=lambda outputs, batch: {},
        log_every=1,
        total_steps=10,
        ema_decay=0.9,
        max_grad_norm=max_grad_norm,
    )
    return state, jax.jit(step)


GOOD = {"loss": np.float32(1.0), "grad": np.array([1, 0, 0], np.float32)}


@pytest.mark.parametrize(
    "bad",
    [
        {"grad": np.array([0, np.nan, 0], np.float32)},
        {"grad": np.array([0, np.inf, 0], np.float32)},
        {"loss": np.float32(np.nan)},
        {"grad": np.array([0, 2.1, 0], np.float32)},  # finite, but above the limit
    ],
    ids=["nan", "inf", "loss", "spike"],
)
def test_step_is_skipped_for_a_gradient_that_is_not_to_be_trusted(bad):
    state, step = guarded_step()
    state, _ = step(state, GOOD)
    after, metrics = step(state, GOOD | bad)
    jax.tree.map(
        np.testing.assert_array_equal,
        after._replace(step=None, skipped=None),
        state._replace(step=None, skipped=None),
    )
    assert int(after.step) == 2
    assert float(metrics["param_norm"]) == pytest.approx(float(optax.tree.norm(state.params)))
    after, _ = step(after, GOOD | bad)
    assert tuple(map(int, after.skipped)) == (2, 2)
    after, metrics = step(after, GOOD)
    assert tuple(map(int, after.skipped)) == (2, 0)
    assert int(metrics["skipped"]) == 0
    expected, _ = step(state, GOOD)  # as if the bad ones had never been, but for the average's rate
    np.testing.assert_array_equal(after.params["w"], expected.params["w"])


def test_without_a_guard_nothing_is_counted():
    state, step = guarded_step(with_guard=False)
    after, metrics = step(state, GOOD | {"grad": np.full(3, np.nan, np.float32)})
    assert after.skipped is None
    assert "skipped" not in metrics
    assert np.isnan(after.params["w"]).all()


def test_limit_of_the_norm_must_be_positive():
    with pytest.raises(ValueError, match="max_grad_norm is 0; expected above 0"):
        guarded_step(max_grad_norm=0)


SIGLIP = Path(__file__).parents[2] / "configs" / "siglip_b16.py"


def step_of(variant, **changes):
    config = load_config(SIGLIP, variant)
    config.update(changes)
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=None)
    return setup.train_step, setup.abstract_state, setup.abstract_batch


def test_all_regularisers_cost_less_than_two_per_cent_of_the_flops():
    plain, everything = (count_flops(*step_of(variant)) for variant in ("plain", "all"))
    assert plain < everything < 1.02 * plain


@pytest.mark.slow
def test_all_regularisers_cost_less_than_five_per_cent_of_the_memory():
    sizes = []
    for variant in ("plain", "all"):
        step, *shapes = step_of(variant, batch_size=4_096)  # 512 rows a device
        memory = step.lower(*shapes).compile().memory_analysis()
        sizes.append(memory.temp_size_in_bytes + memory.argument_size_in_bytes)
    assert sizes[1] < 1.05 * sizes[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_kernel_for_other_devices_is_refused_before_anything_is_compiled(dtype):
    config = tiny_config(model__attention="cudnn", model__dtype=dtype)
    message = "kernel for gpu, but the devices are 'cpu'" if dtype == "bfloat16" else "bfloat16"
    with pytest.raises(ValueError, match=message):
        make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
