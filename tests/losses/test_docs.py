"""Every code block of the documents runs, and what they say about gradients is so."""

import re
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from bias_clip import losses

ROOT = Path(__file__).parent.parent.parent


@cache
def _run(name):
    """What the python blocks of a document define, run in order as one program."""
    blocks = re.findall(
        r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE
    )
    assert blocks, f"{name} has no python block"
    space = {}
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"{name}, block {number}", "exec"), space)
    return space


def _check(got, expected):
    def check(g, e):
        np.testing.assert_allclose(g, e, rtol=2e-4, atol=2e-5 * np.abs(e).max())

    jax.tree.map(check, got, expected)


@pytest.mark.slow
def test_the_blocks_of_the_readme_run():
    space = _run("README.md")
    np.testing.assert_allclose(space["sharded"](space["z"], space["z"]), space["dense"], rtol=1e-6)
    _check(space["gradient"], jax.grad(lambda z: space["loss"](z, z, 10.0, -10.0))(space["z"]))


def test_the_plain_loop_learns():
    history = _run("docs/losses.md")["history"]
    assert history[-1] < 0.5 * history[0]


def test_several_losses_are_their_sum():
    space = _run("docs/losses.md")
    pair = [
        space["normalise"](space[name] @ space["start"][key])
        for name, key in (("images", "image"), ("texts", "text"))
    ]
    rows = losses.sigmoid_loss(*pair, scale=10.0, bias=-10.0)
    rows += 0.1 * losses.softmax_loss(*pair, scale=10.0, epsilon=0.25)
    np.testing.assert_allclose(space["both_losses"](*pair), rows.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["outside", "checked", "unchecked", "pmapped", "summed"])
def test_gradients_of_a_recipe_equal_the_dense_ones(name):
    assert jax.device_count() == 8
    space = _run("docs/losses.md")
    _check(space[name], space["dense"])


@pytest.mark.parametrize("name", ["of_local_images", "of_local_images_unchecked"])
def test_gradients_in_local_rows_equal_the_dense_ones(name):
    space = _run("docs/losses.md")
    _check(space[name], space["of_images"])


def test_pmap_needs_its_recipe():
    """Without `pmean` the parts differ and are too large: should this ever fail, simplify the page."""
    space = _run("docs/losses.md")
    raw = jax.pmap(
        lambda *x: jax.grad(space["loss_fn"])(*x, axis_name="data"),
        axis_name="data",
        in_axes=(None, 0, 0),
    )(space["start"], space["split"](space["images"]), space["split"](space["texts"]))
    total = jax.tree.map(lambda x: x.sum(axis=0), raw)
    _check(total, jax.tree.map(lambda x: 8 * x, space["dense"]))


def test_every_loss_is_in_the_table():
    table = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/losses.md").read_text(), re.MULTILINE))
    helpers = {"fold_blocks", "weighted_mean", "debiased_floor", "together"}
    assert table == set(losses.__all__) - helpers
