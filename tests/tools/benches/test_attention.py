"""The check of a kernel on a new chip: it passes what agrees, and ends on what does not."""

import argparse

import pytest

from tools.benches import attention


def arguments(*words):
    parser = argparse.ArgumentParser()
    attention.add_arguments(parser)
    sizes = ["--examples=4", "--tokens=12", "--heads=2", "--size=16"]
    return parser.parse_args([*sizes, "--rounds=1", *words])


def test_a_kernel_that_agrees_passes_with_errors_and_times(capsys):
    record = attention.bench(arguments())
    assert set(record["errors"]) == set(record["seconds"]) == {"xla", "pallas"}
    assert all(0 < error < 0.02 for found in record["errors"].values() for error in found.values())
    assert "value and gradients: pallas" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_a_kernel_that_is_off_is_an_error_that_names_the_arrays(monkeypatch, wrong):
    attend = attention.attend

    def changed(q, k, v, *, kind):
        return attend(q, k, v if kind == "xla" else v * wrong, kind=kind)

    monkeypatch.setattr(attention, "attend", changed)
    with pytest.raises(
        SystemExit, match="pallas is too far off, or not a number, in out, dq, dk, dv"
    ):
        attention.bench(arguments("--rounds=0"))
