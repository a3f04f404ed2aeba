"""Losses that share the turns of a ring: the values and gradients of each by itself, and one ring."""

from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from bias_clip import losses
from bias_clip.losses import together
from tests.losses.cases import ROWS, anchor_weights, assert_close, compiled, make_mesh

NAMES = ("zimg", "ztxt", "labels", "cells", "prior", "candidate_weights")
SCALE, BIAS = 3.0, -1.0


def _inputs():
    rng = np.random.default_rng(0)
    found = {name: jnp.asarray(ROWS[name](rng, 24)) for name in NAMES}
    found["bias_labels"] = jnp.asarray(rng.integers(0, 2, 24).astype(np.int32))
    found["scale"] = jnp.asarray(SCALE)
    return found


def _calls(x, axis_name, chunk_size):
    """Losses with one fold and with two, of both towers and of one."""
    over = {"axis_name": axis_name, "chunk_size": chunk_size}
    pair = (x["zimg"], x["ztxt"])
    weighted = {"candidate_weights": x["candidate_weights"]} | over
    return {
        "sigmoid": partial(
            losses.sigmoid_loss, *pair, scale=x["scale"], bias=BIAS, labels=x["labels"], **weighted
        ),
        "softmax": partial(
            losses.softmax_loss, *pair, scale=x["scale"], cells=x["cells"], **weighted
        ),
        "debiased": partial(
            losses.debiased_loss,
            *pair,
            scale=x["scale"],
            prior=x["prior"],
            negatives="both",
            **over,
        ),
        "debiased_sigmoid": partial(
            losses.debiased_sigmoid_loss,
            *pair,
            scale=x["scale"],
            bias=BIAS,
            prior=x["prior"],
            **weighted,
        ),
        "eps_supinfonce": partial(
            losses.eps_supinfonce_loss,
            x["zimg"],
            x["labels"],
            temperature=0.2,
            epsilon=0.5,
            **weighted,
        ),
        "fairkl": partial(
            losses.fairkl,
            x["zimg"],
            x["labels"],
            x["bias_labels"],
            z_other=x["ztxt"],
            weights=x["candidate_weights"],
            **over,
        ),
    }


def _in_turn(*calls):
    return tuple(call() for call in calls)


def _objective(run, axis_name=None, chunk_size=None, names=None):
    """The sum of the averaged losses and its parts, computed by `run`."""

    def total(floats, rest, anchors):
        calls = _calls(floats | rest, axis_name, chunk_size)
        calls = {name: call for name, call in calls.items() if names is None or name in names}
        parts = {
            name: value if value.ndim == 0 else losses.weighted_mean(value, anchors, axis_name)
            for name, value in zip(calls, run(*calls.values()), strict=True)
        }
        return sum(parts.values()), parts

    return total


def _split(inputs):
    floats = {k: v for k, v in inputs.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    return floats, {k: v for k, v in inputs.items() if k not in floats}


def _on_mesh(total, mesh, inputs):
    axis = "data" if mesh == "8" else ("data", "fsdp")
    specs = [
        {k: PartitionSpec(axis) if v.ndim else PartitionSpec() for k, v in x.items()}
        for x in _split(inputs)
    ]
    whole = PartitionSpec()
    in_specs = (*specs, PartitionSpec(axis))
    return jax.shard_map(total, mesh=make_mesh(mesh), in_specs=in_specs, out_specs=(whole, whole))


def _value_and_grad(total, inputs):
    run = compiled(jax.value_and_grad(total, has_aux=True))
    return run(*_split(inputs), jnp.asarray(anchor_weights()))


@pytest.mark.parametrize(("mesh", "chunk_size"), [(None, None), (None, 5), ("8", None), ("4x2", 2)])
def test_together_is_each_by_itself(mesh, chunk_size, x64):
    inputs = _inputs()
    axis = {None: None, "8": "data", "4x2": ("data", "fsdp")}[mesh]
    total = _objective(together, axis, chunk_size)
    got = _value_and_grad(total if mesh is None else _on_mesh(total, mesh, inputs), inputs)
    assert_close(got, _value_and_grad(_objective(_in_turn), inputs))


def test_a_lost_row_stays_out(x64):
    """A row of weight 0 that holds NaN, beside one that holds numbers."""
    inputs = _inputs()
    anchors = jnp.asarray(anchor_weights()).at[3].set(0.0)
    inputs["candidate_weights"] = inputs["candidate_weights"].at[3].set(0.0)
    lost = inputs | {"zimg": inputs["zimg"].at[3].set(jnp.nan)}
    names = ("sigmoid", "softmax", "fairkl")
    run = compiled(jax.value_and_grad(_objective(together, names=names), has_aux=True))
    got, expected = (run(*_split(x), anchors) for x in (lost, inputs))
    for _, grad in (got, expected):  # of a weight: what a little more of this row would do
        grad["candidate_weights"] = grad["candidate_weights"].at[3].set(0.0)
    assert_close(got, expected)


def _count(jaxpr, name):
    """How often a primitive is in a program, and with which shapes of its first operand."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == name:
            found.append(equation.invars[0].aval.shape)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            found += _count(inner, name)
    return found


def _program(run, names):
    inputs = _inputs()
    total = _on_mesh(_objective(run, "data", None, names), "8", inputs)
    return jax.make_jaxpr(total)(*_split(inputs), jnp.asarray(anchor_weights())).jaxpr


def test_one_ring_and_embeddings_travel_once():
    names = ("softmax", "debiased_sigmoid", "fairkl")
    shared, single = _program(together, names), _program(_in_turn, names)
    assert len(_count(single, "scan")) == 3
    assert len(_count(shared, "scan")) == 1
    rows = (3, 5)  # the texts of a device
    once = _count(_program(_in_turn, ("softmax",)), "ppermute").count(rows)
    assert once > 0
    assert _count(single, "ppermute").count(rows) == 3 * once
    assert _count(shared, "ppermute").count(rows) == once


def test_losses_of_other_chunks_do_not_mix(x64):
    inputs = _inputs()
    chunks = {"softmax": 5, "debiased_sigmoid": 24, "fairkl": None, "sigmoid": 5}

    def total(floats, rest, anchors):
        calls = [_calls(floats | rest, None, c)[name] for name, c in chunks.items()]
        values = together(*calls)
        parts = {
            name: value if value.ndim == 0 else losses.weighted_mean(value, anchors)
            for name, value in zip(chunks, values, strict=True)
        }
        return sum(parts.values()), parts

    expected = _value_and_grad(_objective(_in_turn, names=chunks), inputs)
    assert_close(_value_and_grad(total, inputs), expected)


def test_a_sigmoid_loss_by_itself_keeps_its_rule():
    """Three products in the ring, and not four: the gradient is collected in the forward pass."""
    inputs = _inputs()

    def program(run):
        total = _on_mesh(_objective(run, "data", None, ("sigmoid",)), "8", inputs)
        grad = jax.grad(total, has_aux=True)
        return jax.make_jaxpr(grad)(*_split(inputs), jnp.asarray(anchor_weights()))

    assert str(program(together)) == str(program(_in_turn))


def test_explicit_axes(x64):
    inputs = _inputs()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    spread = jax.NamedSharding(mesh, PartitionSpec("data"))
    placed = {k: jax.device_put(v, spread) if v.ndim else v for k, v in inputs.items()}
    names = ("sigmoid", "softmax", "fairkl")

    def values(run):
        return lambda x: [run(*(_calls(x, None, None)[name] for name in names))]

    with jax.set_mesh(mesh):
        got = jax.jit(values(together))(placed)
    assert_close(got, jax.jit(values(_in_turn))(inputs))


@pytest.mark.parametrize("call", [sum, partial(sum, [1])])
def test_something_else_is_refused(call, unchecked):
    with pytest.raises(ValueError, match=r"together: got .*; expected a"):
        together(call)
