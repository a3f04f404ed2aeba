"""Light steps: what they see, that their parameters are those of full steps, and where they end."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.plan.flops import count_flops
from bias_clip.train import loop
from bias_clip.train.config import validate
from bias_clip.train.display.speed import make_speed
from bias_clip.train.light import draw_patches
from bias_clip.train.loop import Interrupted, train
from bias_clip.train.setup import make_setup, step_after
from bias_clip.train.sharding import make_mesh, to_global
from bias_clip.train.workdir.folder import open_workdir
from tests.train.test_step import batches
from tests.train.tiny import share_compiled, tiny_config, use_squares

LESS = {"until": "4 steps", "size": 16, "length": 6, "patches": 0.5}


def light_config(light=LESS, **changes):
    # 32 px and patches of 8: a grid of 4 x 4, of which 16 px leave 2 x 2.
    config = tiny_config(
        data__image="decode|resize(32)|value_range(-1,1)",
        evaluation__image="decode|resize(32)|value_range(-1,1)",
        model__image__size=32,
        **changes,
    )
    config.light = light
    return config


def bytes_of(count=1, rows=16, side=32):
    rng = np.random.default_rng(0)
    for batch in batches(count, rows):
        yield batch | {"image": rng.integers(0, 256, (rows, side, side, 3), np.uint8)}


@functools.cache
def make(devices=1, **changes):
    mesh = make_mesh(devices=jax.devices()[:devices])
    return make_setup(light_config(**changes), mesh=mesh, examples_per_epoch=40)


def two_steps(setup, *, light=True):
    function = step_after(setup, 0 if light else 4)
    state = setup.init(jax.random.key(0))
    for batch in bytes_of(2):
        state, metrics = function(state, to_global(batch, setup.mesh))
    return state, {name: float(value) for name, value in metrics.items()}


@pytest.mark.slow
def test_a_light_step_that_leaves_nothing_out_is_a_full_one():
    whole = light_config({"until": "4 steps", "size": 32, "length": 8, "patches": 1.0})
    setup = make_setup(whole, mesh=make().mesh, examples_per_epoch=40)
    found, expected = (two_steps(setup, light=light)[0] for light in (True, False))
    for got, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (8, {}),
        pytest.param(
            1, {"accumulation__mode": "cached", "accumulation__steps": 2}, marks=pytest.mark.slow
        ),
    ],
)
def test_devices_and_microbatches_keep_the_same_patches(devices, changes):
    expected, metrics = two_steps(make())
    found, got = two_steps(make(devices, **changes))
    assert got == pytest.approx(metrics, rel=2e-4, abs=2e-4)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_parameters_are_those_of_full_steps_and_positions_learn():
    before = jax.device_get(make().init(jax.random.key(0)).params)
    after = jax.device_get(two_steps(make())[0].params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, before)
    # Each of the 16 positions has a share in one of the 4, and those of all tokens but two are read.
    moved = np.abs(after["img"]["pos_embedding"] - before["img"]["pos_embedding"]).max(-1)[0] > 0
    assert moved.all()
    moved = np.abs(after["txt"]["pos_embedding"] - before["txt"]["pos_embedding"]).max(-1)[0] > 1e-5
    assert moved.tolist() == [True] * 5 + [False] * 2 + [True]


def test_a_light_step_computes_less():
    setup = make()
    given = setup.abstract_state, setup.abstract_batch
    light, full = (count_flops(f, *given) for f in (setup.light.train_step, setup.train_step))
    assert light < 0.4 * full


def test_patches_are_drawn_alike_and_anew_for_each_image_and_step():
    key = jax.random.key(0)
    kept = np.asarray(draw_patches(key, 4000, 6, 2))
    assert (kept[:, 0] < kept[:, 1]).all()
    pairs, counts = np.unique(kept, axis=0, return_counts=True)
    assert len(pairs) == 15
    # 4,000 draws of 15 pairs: 267 of each, deviation 16.
    assert np.abs(counts - 4000 / 15).max() < 5 * 16
    setup = make()
    one, again, next_step = (
        np.asarray(setup.light.inputs(step, next(bytes_of()))["image"][1]) for step in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != next_step).any()


@pytest.mark.slow
def test_a_run_with_light_steps_continues_as_it_would_have(tmp_path, monkeypatch):
    """Stopped within the light steps and within the full ones, it ends with the same bits."""
    use_squares(monkeypatch)
    share_compiled(monkeypatch)
    seen = []
    asked = loop.asked_to_stop
    monkeypatch.setattr(loop, "step_after", lambda s, n: seen.append(n) or step_after(s, n))
    train(light_config(), tmp_path / "whole", command="test")
    assert seen == list(range(8))
    for stop in (3, 6):
        monkeypatch.setattr(loop, "asked_to_stop", lambda step, stop=stop: step == stop)
        with pytest.raises(Interrupted):
            train(light_config(), tmp_path / "parts", command="test")
    monkeypatch.setattr(loop, "asked_to_stop", asked)
    train(light_config(), tmp_path / "parts", command="test")
    ends = [lines_of(tmp_path / name) for name in ("whole", "parts")]
    assert ends[0] == ends[1]


def lines_of(workdir):
    found = {}
    for text in (workdir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        kept = {k: v for k, v in line.items() if k.startswith("train/") or "/color/" in k}
        found.setdefault(line["step"], {}).update(kept)
    return found


@pytest.mark.parametrize(
    ("light", "message"),
    [
        ({"until": "4 steps"}, "leave nothing out: give size, length or patches"),
        ({"size": 16}, "config.light lacks 'until'"),
        ({"until": "4 steps", "size": 64}, "size is 64; expected 1 to 32"),
        ({"until": "4 steps", "size": 20}, "nearest sizes are 16 and 24"),
        ({"until": "4 steps", "length": 0}, "length is 0; expected 1 to 8"),
        ({"until": "4 steps", "patches": 0.0}, "patches is 0.0; expected a share above 0"),
        ({"until": "4 steps", "pixels": 16}, "'pixels'"),
        ("half", "config.light is 'half'; expected a dict"),
    ],
)
def test_bad_light_steps_are_refused(light, message, monkeypatch):
    use_squares(monkeypatch)
    with pytest.raises(ValueError, match=message):
        validate(light_config(light))


def test_a_workdir_from_before_there_were_light_steps_continues(tmp_path):
    config = tiny_config()
    open_workdir(tmp_path, config)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["light"]
    path.write_text(json.dumps(old))
    open_workdir(tmp_path, config)
    path.write_text(json.dumps(old))
    config.light = LESS
    with pytest.raises(ValueError, match="holds a run of another config"):
        open_workdir(tmp_path, config)


@pytest.mark.parametrize(("compiled", "expected"), [(0, 128.0), (1, 112.0), (2, 96.0)])
def test_steps_that_were_compiled_are_not_in_the_speed(compiled, expected):
    # Eight steps of 16 examples in three seconds, of which two went into compiling.
    line = make_speed(make())(0, 8, compiled, 3.0, {"compile": 2.0})
    assert line["examples_per_second"] == pytest.approx(expected)


def test_light_steps_beyond_the_end_are_refused():
    with pytest.raises(ValueError, match=r"config.light.until is '9 steps', step 9, after the end"):
        make_setup(
            light_config(LESS | {"until": "9 steps"}), mesh=make().mesh, examples_per_epoch=40
        )
