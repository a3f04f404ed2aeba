"""Position tables at another size, against the tables that each library made of one."""

import numpy as np
import pytest

from bias_clip.models import positions
from tests.pretrained.cases import GOLDEN, distance

RULES = {
    "hf_bicubic": "bicubic",
    "open_clip_bicubic_antialias": "bicubic_antialias",
    "timm_siglip": "bicubic_antialias",
    "naflex_bilinear_antialias": "linear_antialias",
    "zoom_order1": "corners",
}


def tables():
    folder = GOLDEN / "positions"
    return {**np.load(folder / "torch.npz"), **np.load(folder / "big_vision.npz")}


@pytest.mark.parametrize("library", RULES)
@pytest.mark.parametrize("side", [2, 3, 6, 7])
def test_grids_are_those_of_the_library(library, side):
    expected = tables()[f"{library}/{side}"].reshape(side * side, 5)
    table = tables()["table"].reshape(16, 5)
    got = positions.resample_grid(table, old=4, new=side, rule=RULES[library])
    assert got.dtype == np.float32
    assert distance(got, expected) < 1e-5


@pytest.mark.parametrize("length", [4, 9])
def test_texts_are_those_of_open_clip(length):
    got = positions.resample_line(tables()["text_table"], new=length, rule="linear")
    assert distance(got, tables()[f"open_clip_text_linear/{length}"]) < 1e-5


@pytest.mark.parametrize("rule", positions.RULES)
def test_the_same_size_changes_nothing(rule):
    table = tables()["table"].reshape(16, 5)
    np.testing.assert_allclose(
        positions.resample_grid(table, old=4, new=4, rule=rule), table, atol=1e-6
    )


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="got 'nearest'"):
        positions.resample_line(np.zeros((3, 2), np.float32), new=4, rule="nearest")
