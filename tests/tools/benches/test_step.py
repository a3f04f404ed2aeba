"""The step's benchmark at toy size: contestants have one architecture, leads switch off, failures are told."""

import argparse
import builtins
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.models import layers, two_towers
from tools.benches import gather, leads, step

TOY = ["--size", "16", "--patch", "8", "--width", "16", "--depth", "1", "--heads", "2"]
TOY += ["--length", "4", "--vocab", "32", "--batch", "8", "--rounds", "2", "--parts", "0"]


def arguments(*words):
    parser = argparse.ArgumentParser()
    step.add_arguments(parser)
    return parser.parse_args([*TOY, "--keep-pages", "0", *words])


@pytest.mark.slow
def test_bare_step_has_the_same_number_of_parameters_and_is_compared():
    record = step.bench(arguments("--peers", "bare JAX"))
    assert record["ratio"]["bare JAX"] > 0
    assert record["bare JAX"]["images_per_second"] > 0


def test_a_broken_torchvision_is_told_and_not_the_end(monkeypatch, capsys):
    real = builtins.__import__

    def broken(name, *rest):
        if name == "open_clip":
            raise RuntimeError("operator torchvision::nms does not exist\nstack")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    sizes = step.Sizes(16, 8, 16, 1, 2, 4, 32, 4, "float32")
    assert step.make_peer("open_clip", sizes) is None
    assert (
        capsys.readouterr().out == "without open_clip: operator torchvision::nms does not exist\n"
    )


def unrolled_gradients():
    """The program of a small step's gradients in bfloat16, and the gradients."""
    sizes = {"width": 32, "depth": 2, "mlp_dim": 64, "num_heads": 2}
    image = {"variant": "Ti/8", "size": 16, **sizes}
    text = {"variant": "Ti", "vocab_size": 50, "length": 6, "out_dim": 32, **sizes}
    model = two_towers.make_model(image=image, text=text, dtype="bfloat16", scan=False)
    params = model.init(jax.random.key(0))
    pixels = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3), minval=-1)
    tokens = jax.random.randint(jax.random.key(2), (4, 6), 1, 50)

    def loss(params):
        out = model.apply(params, pixels, tokens)
        return jnp.sum(jnp.sin(5 * out.zimg @ out.ztxt.T))

    grad = jax.jit(jax.grad(loss))
    leaves = jax.tree.leaves(grad(params))
    return str(jax.make_jaxpr(grad)(params)), np.concatenate([x.ravel() for x in leaves])


@pytest.mark.parametrize("name", leads.LEADS)
def test_a_lead_switched_off_is_another_program_with_the_same_gradients(name, monkeypatch):
    program, expected = unrolled_gradients()
    place, attribute, plain = leads.LEADS[name]
    monkeypatch.setattr(place, attribute, plain)
    other, got = unrolled_gradients()
    assert other != program
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def test_leads_are_functions_that_the_models_have(monkeypatch):
    for place, attribute, plain in leads.LEADS.values():
        assert getattr(place, attribute) is not plain
        monkeypatch.setattr(place, attribute, getattr(place, attribute))  # undone after the test
    leads.switch_off(["flat-gradients"])
    assert layers.flatten is leads.LEADS["flat-gradients"][2]
    with pytest.raises(ValueError, match="expected one of variance-in-one-pass"):
        leads.switch_off(["nothing"])


def test_gathered_parts_and_failures(tmp_path):
    (tmp_path / "kmeans.json").write_text(json.dumps([1]))
    (tmp_path / "losses.failed").write_text("status 124: too slow\n")
    (tmp_path / "gpu.json").write_text("of the last time")
    record = gather.gather(tmp_path)
    assert record["parts"] == {
        "kmeans": {"result": [1]},
        "losses": {"failed": "status 124: too slow"},
    }
    assert record["versions"]["jax"]
