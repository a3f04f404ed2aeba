"""A step that gives other bits the second time is named; equal ones, NaN included, are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.train.hosts.recheck import different, step_twice


@functools.partial(jax.jit, donate_argnums=0)
def step(state, batch):
    return jax.tree.map(lambda x: x + jnp.sum(batch), state), {"loss": jnp.sum(batch) / 0.0}


def make_state():
    return {"a": {"kernel": jnp.arange(6.0)}, "step": jnp.zeros((), jnp.int32)}


def test_a_step_that_agrees_with_itself_is_the_step():
    batch = jnp.ones(3)
    state, metrics = step_twice(step, make_state(), batch, step=4, hosts=())
    expected, _ = step(make_state(), batch)
    np.testing.assert_array_equal(state["a"]["kernel"], expected["a"]["kernel"])
    assert metrics["loss"] == np.inf


def test_one_flipped_bit_is_named_with_its_array_and_step():
    calls = []

    def faulty(state, batch):
        after, metrics = step(state, batch)
        calls.append(0)
        if len(calls) == 2:
            bits = after["a"]["kernel"].view(jnp.int32).at[2].add(1)  # the lowest bit
            after["a"]["kernel"] = bits.view(jnp.float32)
        return after, metrics

    with pytest.raises(FloatingPointError, match=r"step 4 .*this host: 1 arrays .*a/kernel"):
        step_twice(faulty, make_state(), jnp.ones(3), step=4, hosts=())


def test_bits_are_compared_and_not_values():
    nan, zero = jnp.float32("nan"), jnp.float32(0)
    assert different([nan, zero], [nan, zero]) == []
    assert different([nan, zero], [nan, -zero]) == ["1"]
