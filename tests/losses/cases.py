"""One row per public loss, and what every test of the contract needs to run a row.

A new loss adds rows to CASES (and a line to ROWS if it takes a new kind of array);
`test_contract.py` does the rest and fails for a public loss without a row.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from bias_clip import losses

ROWS_PER_BATCH = 24  # 3 on each of 8 devices: chunks of 2 divide neither 3 nor 24 / 5


class Case(NamedTuple):
    """A loss with a kind of input; `rows` and `scalars` are its arguments by name."""

    name: str
    loss: Callable[..., Any]
    rows: tuple[str, ...]
    scalars: dict[str, float]
    additive: Callable[[Any], Any] | None  # of a row's value: linear in the candidate weights


def _unit(rng, rows, width=5):
    z = rng.normal(size=(rows, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def _same(value):
    return value


ROWS = {
    "z": _unit,
    "za": _unit,
    "zb": _unit,
    "zimg": _unit,
    "ztxt": _unit,
    "prior": lambda rng, rows: rng.uniform(0.0, 0.1, rows),
    "labels": lambda rng, rows: rng.integers(-1, 4, rows).astype(np.int32),
    "cells": lambda rng, rows: rng.integers(0, 3, rows).astype(np.int32),
    "candidate_weights": lambda rng, rows: rng.uniform(0.2, 2.0, rows),
}

# With every argument a loss takes: the forms without are in the golden files and test_pairs.py.
PAIR = ("zimg", "ztxt", "labels", "cells")
VIEWS = ("za", "zb", "prior", "cells")
ONE = ("z", "labels", "cells")
SUPCON = {"temperature": 0.2}
EPSILON = SUPCON | {"epsilon": 0.5}

CASES = (
    Case("sigmoid", losses.sigmoid_loss, PAIR, {"scale": 10.0, "bias": -3.0, "margin": 0.5}, _same),
    Case("softmax", losses.softmax_loss, PAIR, {"scale": 10.0, "epsilon": 0.5}, jnp.exp),
    Case("supcon", losses.supcon_loss, ONE, SUPCON, jnp.exp),
    Case("eps-supcon", losses.eps_supcon_loss, ONE, EPSILON, jnp.exp),
    Case("eps-supinfonce", losses.eps_supinfonce_loss, ONE, EPSILON, jnp.exp),
    Case("debiased", losses.debiased_loss, VIEWS, {"scale": 3.0}, jnp.exp),
    Case(
        "debiased-both",
        partial(losses.debiased_loss, negatives="both"),
        VIEWS,
        {"scale": 3.0},
        jnp.exp,
    ),
    Case(
        "hard-debiased",
        losses.hard_debiased_loss,
        VIEWS,
        {"scale": 3.0, "concentration": 0.5},
        None,
    ),
    Case(
        "debiased-sigmoid",
        losses.debiased_sigmoid_loss,
        ("zimg", "ztxt", "prior", "cells"),
        {"scale": 3.0, "bias": -1.0},
        _same,
    ),
)

MESHES = {
    "1": ((1,), ("data",)),
    "2": ((2,), ("data",)),
    "8": ((8,), ("data",)),
    "4x2": ((4, 2), ("data", "fsdp")),
}


def make_inputs(case: Case, rows: int = ROWS_PER_BATCH, seed: int = 0, weights: bool = True):
    """Inputs of a case by argument name, as float64 (int32) NumPy arrays."""
    rng = np.random.default_rng(seed)
    names = (*case.rows, "candidate_weights") if weights else case.rows
    inputs = {name: ROWS[name](rng, rows) for name in names}
    return inputs | {name: np.float64(x) for name, x in case.scalars.items()}


def anchor_weights(rows: int = ROWS_PER_BATCH):
    return np.random.default_rng(99).uniform(0.2, 2.0, rows)


def row_inputs(case: Case, inputs):
    """The part of the inputs that has one entry per row."""
    return {k: v for k, v in inputs.items() if k not in case.scalars}


def takes(case: Case, inputs):
    """The part of the inputs that the loss has an argument for."""
    names = inspect.signature(case.loss).parameters
    return {k: v for k, v in inputs.items() if k in names}


def values(case: Case, inputs, **options):
    """The rows of a loss."""
    return value_and_grad(case, inputs, **options)["rows"]


def value_and_grad(case: Case, inputs, anchors=None, *, mesh=None, jit=True, chunk_size=None):
    """Rows, weighted mean, and its gradient in every float input: dense, or spread over a mesh.

    Differentiated outside `shard_map`, as the trainer does.
    """
    floats = {k: v for k, v in inputs.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    ids = {k: v for k, v in inputs.items() if k not in floats}
    if anchors is None:
        anchors = np.ones(len(next(iter(row_inputs(case, inputs).values()))))
    run = _program(case.name, tuple(floats), tuple(ids), mesh, chunk_size, jit)
    (mean, rows), grad = run(*jax.tree.map(jnp.asarray, (floats, ids, anchors)))
    return {"rows": rows, "mean": mean, "grad": grad}


def compiled(fn):
    """`jit` for tests, which compile much and run little: half the time of the optimised code."""
    fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=fast)


@lru_cache
def _program(case_name, floats, ids, mesh, chunk_size, jit):
    """One program per case and form, shared by all tests: compiling is what these tests cost."""
    case = next(case for case in CASES if case.name == case_name)
    axes = MESHES[mesh][1] if mesh else ()
    axis = axes[0] if len(axes) == 1 else axes or None

    def total(floats, ids, anchors):
        rows = case.loss(**floats, **ids, axis_name=axis, chunk_size=chunk_size)
        return losses.weighted_mean(rows, anchors, axis), rows

    if mesh is not None:
        split, whole = PartitionSpec(axis), PartitionSpec()
        spec = [{k: whole if k in case.scalars else split for k in x} for x in (floats, ids)]
        total = jax.shard_map(
            total, mesh=make_mesh(mesh), in_specs=(*spec, split), out_specs=(whole, split)
        )
    run = jax.value_and_grad(total, has_aux=True)
    return compiled(run) if jit else run


def make_mesh(name: str):
    shape, axes = MESHES[name]
    devices = jax.devices()[: int(np.prod(shape))]
    return jax.make_mesh(shape, axes, axis_types=(AxisType.Auto,) * len(axes), devices=devices)


def dense(case: Case):
    """The dense float64 result every other form is compared with; call it under x64."""
    return value_and_grad(case, make_inputs(case), anchor_weights())


def assert_close(got, expected, rtol=1e-10):
    """Compares trees relative to the largest entry of each array."""

    def check(g, e):
        g, e = np.asarray(g, np.float64), np.asarray(e, np.float64)
        scale = max(np.abs(e).max(), 1e-3)
        np.testing.assert_allclose(g / scale, e / scale, rtol=0, atol=rtol)

    jax.tree.map(check, got, expected)
