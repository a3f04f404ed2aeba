"""The gradient in microbatches: exact where it says so, and less memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bias_clip.models.two_towers import Outputs, unit_norm
from bias_clip.train.accumulate import make_gradient, merge_rows, split_rows
from bias_clip.train.objective import TERMS, make_objective
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_layout, make_mesh, replicated, to_global
from tests.train.tiny import tiny_config

ROWS, HIDDEN, STEPS = 32, 16, 2

ARGUMENTS = {
    "sigmoid": {"duplicates": "mask", "margin": 0.5, "weight_candidates": True},
    "softmax": {"epsilon": 0.5, "weight_candidates": True},
    "supcon": {"temperature": 0.2, "tower": "both"},
    "eps_supcon": {"temperature": 0.2, "epsilon": 0.1, "log_guard": 1e-2},
    "eps_supinfonce": {"temperature": 0.2, "epsilon": 0.1, "tower": "text"},
    "fairkl": {"across": True},
    "debiased": {"weight_candidates": True},
    "debiased_sigmoid": {},
}


def apply(params, image=None, text=None):
    """Two towers that are an MLP and a mean of token vectors: compiled in no time."""
    zimg = ztxt = None
    if image is not None:
        zimg = unit_norm(jnp.tanh(image.reshape(len(image), -1) @ params["in"]) @ params["out"])
    if text is not None:
        ztxt = unit_norm(params["tokens"][text].mean(1))
    return Outputs(zimg, ztxt, jnp.exp(params["log_scale"]), params["bias"])


def make_params(hidden=HIDDEN):
    rng = np.random.default_rng(0)
    shapes = {"in": (27, hidden), "out": (hidden, 8), "tokens": (20, 8)}
    params = {name: rng.normal(size=shape) / 3 for name, shape in shapes.items()}
    params |= {"log_scale": np.log(5.0), "bias": -2.0}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def make_batch(rows=ROWS):
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(size=(rows, 3, 3, 3)).astype(np.float32),
        "text": rng.integers(0, 20, (rows, 4)).astype(np.int32),
        "text_id": rng.integers(0, 9, rows).astype(np.int32),
        "labels": rng.integers(0, 3, rows).astype(np.int32),
        "bias_labels": rng.integers(0, 2, rows).astype(np.int32),
        "cells": rng.integers(0, 2, rows).astype(np.int32),
        "prior": rng.uniform(0, 0.3, rows).astype(np.float32),
        "weights": rng.uniform(0.5, 2, rows).astype(np.float32),
    }


def compiled(mode, steps, terms, mesh, *, rows=ROWS, hidden=HIDDEN):
    params = jax.device_put(make_params(hidden), replicated(mesh))
    gradient = make_gradient(
        apply=apply,
        objective=make_objective(terms, mesh),
        mesh=mesh,
        layout=make_layout(jax.tree.map(lambda _: replicated(mesh), params)),
        mode=mode,
        steps=steps,
    )
    batch = to_global(make_batch(rows), mesh)
    return jax.jit(gradient).lower(params, batch).compile(), params, batch


def gradient_of(*args, **kwargs):
    function, params, batch = compiled(*args, **kwargs)
    return function(params, batch)


def assert_close(got, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_every_term_has_a_case():
    assert set(ARGUMENTS) == set(TERMS)


@pytest.mark.parametrize("name", TERMS)
def test_cached_is_the_full_batch_in_value_and_gradient(name):
    terms = {name: {"coef": 3.0, **ARGUMENTS[name]}}
    expected = gradient_of("none", 1, terms, make_mesh(data=1, devices=jax.devices()[:1]))
    got = gradient_of("cached", STEPS, terms, make_mesh(fsdp=2))
    assert max(np.abs(g).max() for g in jax.tree.leaves(expected.grads)) > 1e-2
    assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_terms_that_are_on_together_are_exact_too():
    terms = {name: {"coef": 0.5, **ARGUMENTS[name]} for name in ("sigmoid", "fairkl", "debiased")}
    mesh = make_mesh()
    expected = gradient_of("none", 1, terms, mesh)
    assert_close(gradient_of("cached", 4, terms, mesh), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.slow
def test_microbatch_is_the_mean_of_little_batches_and_not_the_full_one():
    mesh = make_mesh(data=4, devices=jax.devices()[:4])
    terms = {"softmax": {"coef": 1.0}}
    got = gradient_of("microbatch", STEPS, terms, mesh)
    whole, params, batch = compiled("none", 1, terms, mesh)
    local = np.arange(ROWS).reshape(4, STEPS, -1)  # device, microbatch, row
    each = []
    for i in range(STEPS):
        part = {name: np.asarray(x)[local[:, i].ravel()] for name, x in batch.items()}
        objective = make_objective(terms, make_mesh(data=1, devices=jax.devices()[:1]))
        loss = jax.value_and_grad(
            lambda p, part=part, f=objective: f(apply(p, part["image"], part["text"]), part)[0]
        )
        each.append(loss(make_params()))
    expected = jax.tree.map(lambda *xs: sum(np.asarray(x) for x in xs) / STEPS, *each)
    assert_close((got.loss, got.grads), expected, rtol=1e-5, atol=1e-6)
    full = whole(params, batch)
    assert float(full.loss) > float(got.loss) + 0.1  # log of twice as many candidates
    np.testing.assert_allclose(got.outputs.zimg, full.outputs.zimg, rtol=1e-5)  # rows in order


def test_splitting_gives_every_device_a_part_of_its_own_rows():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    rows = np.arange(16)
    parts = split_rows(to_global(rows, mesh), 2, mesh)
    np.testing.assert_array_equal(parts[0], [0, 1, 4, 5, 8, 9, 12, 13])
    assert parts.sharding.is_equivalent_to(
        NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))), parts.ndim
    )
    np.testing.assert_array_equal(merge_rows(parts, mesh), rows)


@pytest.mark.parametrize("mode", ["microbatch", "cached"])
def test_no_image_changes_its_device(mode):
    function, _, _ = compiled(mode, STEPS, {"sigmoid": {"coef": 1.0}}, make_mesh())
    found = set(re.findall(r" (all-\w+|reduce-scatter|collective-\w+)\(", function.as_text()))
    assert "all-reduce" in found  # of gradients
    assert found <= {"all-reduce", "collective-permute"}  # the ring of the embeddings


@pytest.mark.parametrize("mode", ["microbatch", "cached"])
def test_activations_shrink_with_the_number_of_microbatches(mode):
    mesh = make_mesh(data=1, devices=jax.devices()[:1])
    sizes = {}
    for steps in (1, 2, 8):
        chosen = "none" if steps == 1 else mode
        terms = {"sigmoid": {"coef": 1.0, "chunk_size": 64}}
        function, *_ = compiled(chosen, steps, terms, mesh, rows=2048, hidden=1024)
        sizes[steps] = function.memory_analysis().temp_size_in_bytes
    assert sizes[2] < 0.75 * sizes[1]
    assert sizes[8] < 0.5 * sizes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "cache", "steps": 2}, "'cache'; expected one of"),
        ({"mode": "none", "steps": 2}, "choose 'cached'"),
        ({"mode": "cached", "steps": 0}, "at least 1"),
    ],
)
def test_accumulation_that_cannot_be_is_refused(arguments, message):
    changes = {f"accumulation__{name}": value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        make_setup(
            tiny_config(**{"accumulation__mode": "none", **changes}),
            mesh=make_mesh(data=1, devices=jax.devices()[:1]),
            examples_per_epoch=40,
        )


def test_batch_that_does_not_divide_into_microbatches_is_refused():
    config = tiny_config(accumulation__mode="cached", accumulation__steps=3)
    with pytest.raises(ValueError, match="8 devices times 3 microbatches; try 24"):
        make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
