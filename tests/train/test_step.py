"""One step of training: equal on any mesh, and a step of descent."""

import jax
import numpy as np
import pytest

from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh, to_global
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


@pytest.mark.parametrize("axes", [{}, {"fsdp": 8}, {"fsdp": 4}])
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
