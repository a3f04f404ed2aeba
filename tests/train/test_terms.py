"""Every term of an objective: the loss it stands for, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip import losses
from bias_clip.models.two_towers import Outputs
from bias_clip.train.config import validate
from bias_clip.train.loop import train
from bias_clip.train.objective import TERMS, make_objective, needed_columns
from bias_clip.train.sharding import make_mesh
from tests.train.tiny import tiny_config, use_squares

ROWS = 16


def embeddings(seed):
    z = np.random.default_rng(seed).normal(size=(ROWS, 8)).astype(np.float32)
    return jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def whole_batch():
    rng = np.random.default_rng(2)
    return {
        "text_id": jnp.asarray(rng.integers(0, 9, ROWS), jnp.int32),
        "labels": jnp.asarray(rng.integers(0, 3, ROWS), jnp.int32),
        "bias_labels": jnp.asarray(rng.integers(0, 2, ROWS), jnp.int32),
        "cells": jnp.asarray(rng.integers(0, 2, ROWS), jnp.int32),
        "prior": jnp.asarray(rng.uniform(0, 0.3, ROWS), jnp.float32),
        "weights": jnp.asarray(rng.uniform(0.5, 2, ROWS), jnp.float32),
    }


OUTPUTS = Outputs(embeddings(0), embeddings(1), jnp.float32(5.0), jnp.float32(-2.0))
PAIR = (OUTPUTS.zimg, OUTPUTS.ztxt)
BOTH = jnp.concatenate(PAIR)
SCALE = {"scale": OUTPUTS.scale}


def twice(x):
    return jnp.concatenate([x, x])


# name of a case: (arguments of the term, the loss from the batch)
CASES = {
    "sigmoid": (
        {"duplicates": "mask", "margin": 0.5},
        lambda b: losses.sigmoid_loss(
            *PAIR, **SCALE, bias=OUTPUTS.bias, margin=0.5, labels=b["text_id"], cells=b["cells"]
        ),
    ),
    "softmax": (
        {"epsilon": 0.5, "weight_candidates": True},
        lambda b: losses.softmax_loss(
            *PAIR, **SCALE, epsilon=0.5, cells=b["cells"], candidate_weights=b["weights"]
        ),
    ),
    "supcon": (
        {"temperature": 0.2, "base_temperature": 0.1},
        lambda b: losses.supcon_loss(
            OUTPUTS.zimg, b["labels"], temperature=0.2, base_temperature=0.1, cells=b["cells"]
        ),
    ),
    "eps_supcon": (
        {"temperature": 0.2, "epsilon": 0.1, "tower": "text", "log_guard": 1e-2},
        lambda b: losses.eps_supcon_loss(
            OUTPUTS.ztxt,
            b["labels"],
            temperature=0.2,
            epsilon=0.1,
            log_guard=1e-2,
            cells=b["cells"],
        ),
    ),
    "eps_supinfonce": (
        {"temperature": 0.2, "epsilon": 0.1, "form": "in", "tower": "both"},
        lambda b: losses.eps_supinfonce_loss(
            BOTH,
            twice(b["labels"]),
            temperature=0.2,
            epsilon=0.1,
            form="in",
            cells=twice(b["cells"]),
        ),
    ),
    "fairkl": (
        {"form": "mean", "across": True},
        lambda b: losses.fairkl(
            OUTPUTS.zimg,
            b["labels"],
            b["bias_labels"],
            z_other=OUTPUTS.ztxt,
            form="mean",
            weights=b["weights"],
        ),
    ),
    "debiased": (
        {"concentration": 0.5},
        lambda b: losses.hard_debiased_loss(
            *PAIR, **SCALE, prior=b["prior"], concentration=0.5, cells=b["cells"]
        ),
    ),
    "debiased_sigmoid": (
        {"prior": 0.1},
        lambda b: losses.debiased_sigmoid_loss(
            *PAIR, **SCALE, bias=OUTPUTS.bias, prior=0.1, cells=b["cells"]
        ),
    ),
}


def test_every_term_has_a_case():
    assert set(CASES) == set(TERMS)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_its_loss_averaged_with_the_weights(name, devices):
    arguments, loss = CASES[name]
    batch = whole_batch()
    values = loss(batch)
    if values.ndim:
        weights = twice(batch["weights"]) if len(values) == 2 * ROWS else batch["weights"]
        values = jnp.sum(values * weights) / jnp.sum(weights)
    mesh = make_mesh(devices=jax.devices()[:devices])
    objective = jax.jit(make_objective({name: {"coef": 3.0, **arguments}}, mesh))
    total, parts = objective(OUTPUTS, batch)
    np.testing.assert_allclose(parts[name], values, rtol=2e-5)
    np.testing.assert_allclose(total, 3 * values, rtol=2e-5)


def test_terms_share_the_turns_of_one_ring():
    names = ("sigmoid", "softmax", "debiased_sigmoid", "fairkl")
    terms = {name: {"coef": 1.0, **CASES[name][0]} for name in names}
    objective = make_objective(terms, make_mesh(devices=jax.devices()[:8]))
    # The chunks of the last one are its own, but no block has so many rows.
    program = str(jax.make_jaxpr(objective)(OUTPUTS, whole_batch()))
    assert program.count("scan[") == 1


def test_what_a_term_needs():
    assert needed_columns("sigmoid", {}) == ()
    assert needed_columns("softmax", {"weight_candidates": True}) == ("weights",)
    assert needed_columns("fairkl", {}) == ("labels", "bias_labels")
    assert needed_columns("debiased", {}) == ("prior",)
    assert needed_columns("debiased", {"prior": 0.1}) == ()


def with_objective(**terms):
    config = tiny_config()
    with config.unlocked():
        config.objective = {name: {"coef": 1.0, **arguments} for name, arguments in terms.items()}
    return config


def test_a_term_without_its_columns_is_refused_at_the_start(monkeypatch):
    use_squares(monkeypatch)
    message = r"objective.debiased needs \['prior'\].*config.data.columns = dict\(prior='...'\)"
    with pytest.raises(ValueError, match=message):
        validate(with_objective(debiased={}))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"fairkl": {}}, r"objective.fairkl needs \['labels', 'bias_labels'\] in every batch"),
        ({"supcon": {"temperature": 0.1}}, r"objective.supcon needs \['labels'\]"),
        ({"debiased_sigmoid": {}}, r"objective.debiased_sigmoid needs \['prior'\]"),
        ({"softmax": {"weight_candidates": True}}, r"objective.softmax needs \['weights'\]"),
        ({"sigmoyd": {}}, r"config.objective has 'sigmoyd'.* Did you mean 'sigmoid'\?"),
        ({"sigmoid": {"marjin": 0.1}}, r"objective.sigmoid has 'marjin'.* Did you mean 'margin'\?"),
        ({"eps_supcon": {}}, r"objective.eps_supcon lacks \['temperature', 'epsilon'\]"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_wrong_objective_is_refused_at_the_start(terms, message, monkeypatch):
    use_squares(monkeypatch)
    with pytest.raises(ValueError, match=message):
        validate(with_objective(**terms))


def test_an_unknown_column_is_refused_at_the_start(monkeypatch):
    use_squares(monkeypatch)
    config = with_objective(sigmoid={})
    config.data.columns = {"label": "name"}
    with pytest.raises(ValueError, match="Did you mean 'labels'"):
        validate(config)


def test_training_with_all_terms_and_columns(monkeypatch, tmp_path):
    use_squares(monkeypatch)
    terms = {name: arguments for name, (arguments, _) in CASES.items()}
    config = with_objective(**terms)
    config.data.columns = {
        "labels": "name",
        "bias_labels": {"attribute": "name", "values": ("red", "blue")},
        "prior": {"share_of": "name"},
        "weights": "weight",
    }
    monkeypatch.setattr("tests.train.tiny.Squares.__init__", _with_weights)
    validate(config)
    train(config, tmp_path / "run", command="test")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert all(f'"train/term_{name}"' in lines for name in TERMS)


def _with_weights(self, *, shift=0):
    self.shift = shift
    names = np.repeat(np.array(["red", "green", "blue", "grey"]), 10)
    self.columns = {
        "id": np.array([f"square/{i}" for i in range(40)]),
        "name": names,
        "weight": np.linspace(0.5, 1.5, 40),
    }
