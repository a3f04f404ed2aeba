"""The step's benchmark at toy size: contestants have one architecture, leads switch off, failures are told."""

import argparse
import builtins
import json

import pytest

from bias_clip.models import layers
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


def test_leads_are_functions_that_the_models_have(monkeypatch):
    for place, attribute, plain in leads.LEADS.values():
        assert getattr(place, attribute) is not plain
        monkeypatch.setattr(place, attribute, getattr(place, attribute))  # undone after the test
    leads.switch_off(["bias-by-product"])
    assert layers.add_bias is layers.add_plainly
    with pytest.raises(ValueError, match="expected one of bias-by-product"):
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
