"""Bad input of every loss per row: an error while tracing that names the argument, got, expected."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from tests.losses import cases

ROWS = 8
LOSSES = {case.name: case for case in cases.CASES}
LOSSES["floor"] = LOSSES["debiased"]._replace(loss=losses.debiased_floor)
PRIORS = {"debiased", "debiased-both", "hard-debiased", "debiased-sigmoid", "floor"}
LABELLED = {"sigmoid", "softmax", "supcon", "eps-supcon", "eps-supinfonce"}
SUPERVISED = {"supcon", "eps-supcon", "eps-supinfonce"}
ALL = set(LOSSES)
IDS = r"got float\d\d\[8\], expected integer ids \[8\], one per row"

# of which losses, what is changed, and what the message says
BAD = [
    (ALL, {"cells": jnp.ones(ROWS)}, f"cells: {IDS}"),
    (ALL, {"cells": jnp.ones(9, int)}, r"cells: got int\d\d\[9\], expected integer ids \[8\]"),
    (ALL, {"cells": [0] * ROWS}, r"cells: got list, expected integer ids \[8\]"),
    (ALL, {"candidate_weights": jnp.ones(3)}, r"candidate_weights: got float\d\d\[3\], expected"),
    (ALL, {"candidate_weights": jnp.ones((ROWS, 1))}, r"candidate_weights: got float\d\d\[8, 1\]"),
    (ALL, {"candidate_weights": -np.ones(ROWS)}, r"got -1.0 as smallest, expected no negative"),
    (ALL, {"candidate_weights": np.full(ROWS, np.nan)}, r"candidate_weights: got nan as smallest"),
    (ALL, {"chunk_size": 0}, r"chunk_size: got 0, expected a positive number of rows or None"),
    (ALL, {"chunk_size": 2.5}, r"chunk_size: got 2.5, expected a positive number of rows or None"),
    (LABELLED, {"labels": jnp.ones(ROWS)}, f"labels: {IDS}"),
    (LABELLED, {"labels": jnp.ones((ROWS, 1), int)}, r"labels: got int\d\d\[8, 1\], expected"),
    (SUPERVISED, {"labels": None}, r"labels: got None, expected integer ids \[8\]"),
    (SUPERVISED, {"z": jnp.ones(ROWS)}, r"z: got float\d\d\[8\], expected float embeddings \[rows"),
    (SUPERVISED, {"temperature": 0.0}, r"temperature: got 0.0, expected a number above 0"),
    (SUPERVISED, {"temperature": jnp.ones(ROWS)}, r"temperature: got float\d\d\[8\], expected one"),
    (SUPERVISED, {"positives": jnp.ones((ROWS, ROWS))}, r"positives: got float\d\d\[8, 8\], exp"),
    (SUPERVISED, {"positives": np.ones((ROWS, 5), bool)}, r"bool\[8, 5\], expected bool\[8, 8\]"),
    ({"eps-supinfonce"}, {"form": "inside"}, r"form: got 'inside', expected one of 'out', 'in'"),
    ({"eps-supinfonce"}, {"form": "in", "log_guard": 1e-6}, r"log_guard: got 1e-06, expected 0"),
    ({"eps-supcon", "softmax"}, {"epsilon": jnp.ones(ROWS)}, r"epsilon: got float\d\d\[8\], expect"),
    (ALL - SUPERVISED, {"scale": jnp.ones(ROWS)}, r"scale: got float\d\d\[8\], expected one number"),
    (ALL - SUPERVISED, {"scale": None}, r"scale: got None, expected one number"),
    ({"sigmoid", "debiased-sigmoid"}, {"bias": jnp.ones(ROWS)}, r"bias: got float\d\d\[8\], expect"),
    ({"sigmoid"}, {"margin": jnp.ones(2)}, r"margin: got float\d\d\[2\], expected one number"),
    (PRIORS, {"prior": 1.0}, r"prior: got values from 1.0 to 1.0, expected them in \[0, 1\)"),
    (PRIORS, {"prior": np.linspace(-0.1, 0.5, ROWS)}, r"prior: got values from -0.1 to 0.5, exp"),
    (PRIORS, {"prior": float("nan")}, r"prior: got values from nan"),
    (PRIORS, {"prior": jnp.ones(3)}, r"prior: got float\d\d\[3\], expected a number, or numbers"),
    (PRIORS, {"prior": None}, r"prior: got None, expected a number, or numbers \[8\] or \[8, 2\]"),
    ({"debiased", "hard-debiased", "floor"}, {"negatives": "all"}, r"negatives: got 'all', expecte"),
    ({"hard-debiased"}, {"concentration": -1.0}, r"concentration: got -1.0, expected a number of 0"),
    ({"sigmoid", "softmax", "debiased-sigmoid"}, {"ztxt": jnp.ones((3, 5))}, r"ztxt\[3, 5\], expec"),
    ({"sigmoid", "softmax", "debiased-sigmoid"}, {"zimg": jnp.ones(5)}, r"zimg: got float\d\d\[5\]"),
    ({"softmax"}, {"ztxt": jnp.ones((ROWS, 5), int)}, r"ztxt: got int\d\d\[8, 5\], expected float"),
    ({"debiased", "hard-debiased", "floor"}, {"zb": jnp.ones((3, 5))}, r"za\[8, 5\], zb\[3, 5\], ex"),
]  # fmt: skip
ALL_BAD = [
    pytest.param(name, change, message, id=f"{name}-{next(iter(change))}-{i}")
    for i, (names, change, message) in enumerate(BAD)
    for name in sorted(names)
]


@functools.cache
def _inputs(name):
    return {k: jnp.asarray(v) for k, v in cases.make_inputs(LOSSES[name], ROWS).items()}


@pytest.mark.parametrize(("name", "change", "message"), ALL_BAD)
def test_bad_input_says_what_was_got_and_expected(name, change, message, unchecked):
    """Traced with everything but the bad argument unknown, as inside the `jit` of a train step."""
    loss, inputs = LOSSES[name].loss, {k: v for k, v in _inputs(name).items() if k not in change}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda inputs: loss(**inputs, **change), inputs)


def test_bad_input_of_the_mean(unchecked):
    for values, weights, message in [
        (jnp.ones(3), jnp.ones(2), r"weights: got float\d\d\[2\], expected numbers \[3\]"),
        (jnp.ones(3), jnp.array([1.0, -2.0, 1.0]), r"weights: got -2\.0 as smallest"),
        (jnp.ones((3, 3)), None, r"values: got float\d\d\[3, 3\], expected floats \[rows\]"),
        (jnp.ones(3, int), jnp.ones(3), r"values: got int\d\d\[3\], expected floats \[rows\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            losses.weighted_mean(values, weights)


def test_values_of_traced_arrays_are_not_looked_at():
    """They cannot be; shapes and dtypes are."""
    inputs = _inputs("debiased")

    def rows(prior, weights):
        rest = inputs | {"prior": prior, "candidate_weights": weights}
        return losses.debiased_loss(**rest)

    out = jax.eval_shape(rows, 2 * jnp.ones(ROWS), -jnp.ones(ROWS))
    assert out.shape == (ROWS,)


@pytest.mark.parametrize("name", LOSSES)
def test_all_take_cells_weights_chunks_and_an_axis(name):
    parameters = inspect.signature(LOSSES[name].loss).parameters.values()
    keyword = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert {"cells", "candidate_weights", "chunk_size", "axis_name"} <= keyword
