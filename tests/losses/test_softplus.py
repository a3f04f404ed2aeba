"""The gradient that is collected on the way, against the one that JAX derives."""

import numpy as np
import pytest

from tests.losses import cases
from tests.losses.cases import CASES, assert_close

SIGMOID = next(case for case in CASES if case.name == "sigmoid")
ROWS = cases.ROWS_PER_BATCH
WEIGHTS = {
    "alike": np.full(ROWS, 0.3),
    "different": cases.anchor_weights(),
    "one device alike": np.where(np.arange(ROWS) < ROWS // 8, 1.0, 0.5),  # on 8, all but one agree
    "some zero": (np.arange(ROWS) % 3 != 0).astype(float),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("mesh", "chunk_size"), [(None, 5), ("8", None), ("4x2", 2)])
def test_collected_gradient_is_the_derived_one(weights, mesh, chunk_size, x64):
    inputs, anchors = cases.make_inputs(SIGMOID), WEIGHTS[weights]
    got = cases.value_and_grad(SIGMOID, inputs, anchors, mesh=mesh, chunk_size=chunk_size)
    derived = cases.value_and_grad(SIGMOID, inputs, anchors)
    assert_close(got, derived)
