"""What the benchmark compares is the same loss in every form."""

import argparse

import jax
import numpy as np
import pytest

from tools.benches import losses


@pytest.mark.slow
@pytest.mark.parametrize("loss", losses.LOSSES)
def test_all_forms_have_one_value_and_gradient(loss):
    forms = losses.make_forms(loss, 64, 8, 24, jax.devices())
    assert len(forms) == (4 if loss == "fairkl" else 5)
    results = {name: form.function(*losses._arrays(form.inputs)) for name, form in forms.items()}
    value, gradients = results.pop("dense")
    assert np.isfinite(value)
    for name, (other, others) in results.items():
        np.testing.assert_allclose(other, value, rtol=2e-5, err_msg=name)
        for one, two in zip(gradients, others, strict=True):
            np.testing.assert_allclose(one, two, rtol=2e-3, atol=2e-5, err_msg=name)


def test_a_row_has_memory_and_time_of_every_form(capsys):
    parser = argparse.ArgumentParser()
    losses.add_arguments(parser)
    line = "--batches 128 --width 16 --chunk-size 32 --rounds 1 --losses sigmoid"
    (row,) = losses.bench(parser.parse_args(line.split()))
    assert set(row["gib"]) == {"plain", "dense", "chunked", "ring", "ring chunked"}
    assert set(row["gib"]) <= set(row["seconds"])
    assert row["gib"]["chunked"] < row["gib"]["dense"]
    assert "of dense" in capsys.readouterr().out
