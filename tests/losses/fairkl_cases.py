"""The ways to call FairKL, and one program each: what its contract and its laws run."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from bias_clip.losses import fairkl
from tests.losses import cases

ROWS = 24


class Case(NamedTuple):
    """A call by the names of its arrays and its other arguments."""

    arrays: tuple[str, ...]
    arguments: dict[str, Any]


# Each argument at least once, each form, within a tower and across, hard and soft bias labels.
CASES = {
    "kl": Case(("z", "labels", "bias_labels", "weights"), {"form": "kl"}),
    "jeffreys-across": Case(
        ("z", "z_other", "labels", "bias_labels", "weights"),
        {"form": "jeffreys", "variance_guard": 1e-3},
    ),
    "kl-soft-across": Case(("z", "z_other", "labels", "soft", "weights"), {"form": "kl"}),
    "mean-soft": Case(("z", "labels", "soft", "weights"), {"form": "mean"}),
    "authors": Case(
        ("z", "labels", "bias_labels", "weights"),
        {"form": "authors", "temperature": 0.5, "kld": 0.7},
    ),
}


def make_inputs(names=("z", "z_other", "weights", "labels", "bias_labels"), rows=ROWS, seed=0):
    """Arrays by name, float64 under x64; some labels are unknown."""
    rng = np.random.default_rng(seed)
    every = {
        "z": cases.ROWS["z"](rng, rows),
        "z_other": cases.ROWS["z"](rng, rows),
        "weights": rng.uniform(0.2, 2, rows),
        "labels": rng.integers(-1, 3, rows),
        "bias_labels": rng.integers(-1, 2, rows),
        "soft": rng.dirichlet(np.ones(3), rows),
    }
    return {name: jnp.asarray(every[name]) for name in names}


def value_and_grad(case: Case, inputs=None, *, mesh=None, chunk_size=None, jit=True):
    """The value and its gradient in every float array: dense, or spread over a mesh."""
    inputs = make_inputs(case.arrays) if inputs is None else inputs
    run = _program(tuple(inputs), tuple(case.arguments.items()), mesh, chunk_size, jit)
    floats = {k: v for k, v in inputs.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    return run(floats, {k: v for k, v in inputs.items() if k not in floats})


def value(case: Case, inputs, **options):
    """FairKL of arrays by name, "soft" being bias labels as well."""
    named = {"bias_labels" if k == "soft" else k: v for k, v in inputs.items()}
    return fairkl(**named, **case.arguments, **options)


@lru_cache
def _program(names, arguments, mesh, chunk_size, jit):
    axes = cases.MESHES[mesh][1] if mesh else None
    case = Case(names, dict(arguments))

    def total(floats, ids):
        return value(case, floats | ids, chunk_size=chunk_size, axis_name=axes)

    if mesh:
        total = jax.shard_map(total, mesh=cases.make_mesh(mesh), in_specs=P(axes), out_specs=P())
    run = jax.value_and_grad(total)
    return cases.compiled(run) if jit else run
