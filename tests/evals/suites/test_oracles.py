"""Every golden file of the official codes is reproduced: tests/evals/suites/golden/README.md."""

import numpy as np
import pytest

from tests.evals.suites.oracles import FAMILIES, agrees, checks, golden_files

FILES = golden_files()


def test_every_family_has_files() -> None:
    for family in FAMILIES:
        assert any(path.name.startswith(family) for path in FILES), family


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_official_values_are_reproduced(path) -> None:
    rows = list(checks(path))
    assert rows
    for what, ours, official, tolerance in rows:
        assert agrees(ours, official, tolerance), (what, ours, official)


def test_agrees_can_fail() -> None:
    assert not agrees(1.0, 1.1, 0.01)
    assert not agrees([1.0], np.nan, 1)
    assert not agrees([1.0], (np.array([2.0]), np.array([3.0])), 0)
    assert not agrees(["a"], ["b"], 0)
