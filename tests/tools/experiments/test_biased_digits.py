"""The digits experiment: colours that go with classes as often as asked, and a run that learns."""

import argparse

import numpy as np
import pytest

from tools.experiments import biased_digits


def test_colours_follow_the_class_as_often_as_asked():
    labels = np.repeat(np.arange(10), 2_000)
    colour = biased_digits.draw_colours(labels, 0.9, np.random.default_rng(0))
    assert abs(np.mean(colour == labels) - 0.9) < 0.01
    others = np.bincount((colour - labels)[colour != labels] % 10, minlength=10)
    assert others[0] == 0
    assert others[1:].min() > 0.7 * others[1:].mean()
    assert len(np.unique(biased_digits.colours(), axis=0)) == 10


def test_a_painted_digit_is_white_on_its_colour():
    ink = np.zeros((1, 8, 8))
    ink[0, 2, 3] = 1.0
    image = biased_digits.paint(ink, np.array([4]))[0]
    np.testing.assert_allclose(image[2, 3], 1.0)
    np.testing.assert_allclose(image[0, 0], biased_digits.colours()[4])


def test_moving_keeps_the_ink_within_a_pixel():
    ink = np.zeros((50, 8, 8))
    ink[:, 4, 4] = 1.0
    moved = biased_digits.move(ink, np.random.default_rng(0))
    assert (moved.sum(axis=(1, 2)) == 1).all()
    _, y, x = np.nonzero(moved)
    assert set(y) == set(x) == {3, 4, 5}


@pytest.mark.slow
def test_without_a_bias_the_digits_are_learned():
    args = argparse.Namespace(copies=4, epochs=16, batch=128)
    for method in ("cross-entropy", "eps-SupInfoNCE"):
        accuracy = biased_digits.train_one(biased_digits.METHODS[method], 0.1, 0, args)
        assert accuracy > 0.6, method
