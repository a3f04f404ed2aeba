"""Each loss is the plain form that its file opens with: value and gradient, in blocks and chunks too."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from bias_clip.losses import debiased, debiased_sigmoid, sigmoid, softmax, supcon

ROWS = 12


def unit(rng):
    z = rng.normal(size=(ROWS, 5))
    return jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def pair():
    rng = np.random.default_rng(0)
    return unit(rng), unit(rng)


def one_tower():
    rng = np.random.default_rng(1)
    return unit(rng), jnp.asarray(rng.permutation(np.arange(ROWS) // 3))


# name: (the loss, its plain form, the arrays, the numbers)
CASES = {
    "sigmoid": (
        losses.sigmoid_loss,
        sigmoid._plain_sigmoid_loss,
        pair,
        {"scale": 4.0, "bias": -2.0},
    ),
    "softmax": (losses.softmax_loss, softmax._plain_softmax_loss, pair, {"scale": 4.0}),
    "debiased": (
        losses.debiased_loss,
        debiased._plain_debiased_loss,
        pair,
        {"scale": 2.0, "prior": 0.05},
    ),
    "debiased at the floor": (
        losses.debiased_loss,
        debiased._plain_debiased_loss,
        pair,
        {"scale": 2.0, "prior": 0.9},
    ),
    "hard debiased": (
        losses.hard_debiased_loss,
        debiased._plain_debiased_loss,
        pair,
        {"scale": 2.0, "prior": 0.05, "concentration": 0.7},
    ),
    "supcon": (
        losses.supcon_loss,
        lambda *z, **n: supcon._plain_eps_supcon_loss(*z, **n, epsilon=0.0),
        one_tower,
        {"temperature": 0.3},
    ),
    "eps_supcon": (
        losses.eps_supcon_loss,
        supcon._plain_eps_supcon_loss,
        one_tower,
        {"temperature": 0.3, "epsilon": 0.4},
    ),
    "eps_supinfonce": (
        losses.eps_supinfonce_loss,
        supcon._plain_eps_supinfonce_loss,
        one_tower,
        {"temperature": 0.3, "epsilon": 0.4},
    ),
}


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_plain_form(name, chunk_size, x64):
    loss, plain, arrays, numbers = CASES[name]
    z, *rest = arrays()
    got = loss(z, *rest, **numbers, chunk_size=chunk_size)
    np.testing.assert_allclose(got, plain(z, *rest, **numbers), rtol=1e-9)
    if name == "debiased at the floor":
        return  # the scale has no gradient there, but in the plain form
    grad, expected = (
        jax.grad(lambda z, f=f, more=more: f(z, *rest, **numbers, **more).sum())(z)
        for f, more in ((loss, {"chunk_size": chunk_size}), (plain, {}))
    )
    np.testing.assert_allclose(grad, expected, rtol=1e-7, atol=1e-9)


def test_the_debiased_sigmoid_loss_is_its_plain_form_above_the_floor(x64):
    numbers = {"scale": 4.0, "bias": -2.0, "prior": 0.02}
    got = losses.debiased_sigmoid_loss(*pair(), **numbers)
    plain = debiased_sigmoid._plain_debiased_sigmoid_loss(*pair(), **numbers)
    np.testing.assert_allclose(got, plain, rtol=1e-9)


def test_fairkl_is_its_plain_form(x64):
    z, labels = one_tower()
    bias = jnp.asarray(np.random.default_rng(2).integers(0, 2, ROWS))
    # The package exports the function under the name of its module.
    plain = importlib.import_module("bias_clip.losses.fairkl")._plain_fairkl
    np.testing.assert_allclose(losses.fairkl(z, labels, bias), plain(z, labels, bias), rtol=1e-9)
