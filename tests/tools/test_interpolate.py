"""Averages of two models: the ends are the models, and what does not go together is refused."""

import json

import jax
import numpy as np
import pytest

from bias_clip.cli import interpolate
from bias_clip.cli.shared.mixture import mix
from bias_clip.report.tradeoff import render_tradeoff, tradeoff_chart
from bias_clip.train.workdir.load_model import load_model
from tests.tools.runs import make_run
from tests.train.tiny import use_squares

DETAILS = {"names": {"kind": "zeroshot"}, "roles": {"kind": "representation"}}


@pytest.fixture(autouse=True)
def squares(monkeypatch):
    use_squares(monkeypatch)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        return [make_run(folder / name, seed=seed) for seed, name in enumerate("ab")]


def test_each_parameter_is_the_weighted_mean(runs):
    a, b = map(load_model, runs)
    for weight in (0.0, 0.25, 1.0):
        found = mix(a, b, weight).params
        jax.tree.map(
            lambda x, y, z, w=weight: np.testing.assert_allclose(z, (1 - w) * x + w * y, rtol=1e-6),
            a.params,
            b.params,
            found,
        )


def test_the_tool_measures_each_average_and_writes_a_page(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["--workdir", *map(str, runs), "--weights", "0", "1", "--plot", str(page)]
    interpolate.main([*words, "--json", str(tmp_path / "x.json")])
    assert "| | 0 | 1 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.json").read_text()).keys() == {"0", "1"}
    assert "A column per mixing weight" in page.read_text()


def test_the_curve_has_a_dot_per_model_in_order():
    models = {
        "0": {"names/acc1": 0.5, "roles/gap": 0.2},
        "1": {"names/acc1": 0.4, "roles/gap": 0.1},
    }
    chart = tradeoff_chart(models, quality="names/acc1", bias="roles/gap", details=DETAILS)
    (x0, y0, *_), (x1, y1, name, said) = chart.dots
    assert (x0 > x1, y0 < y1, name) == (True, True, "1")  # pixels count downwards
    assert "names/acc1 40.0" in said
    page = render_tradeoff(chart, names=["a", "b"], head=["metric", "0", "1"], rows=[])
    assert page.count("<circle") == 2
    assert chart.path in page
    with pytest.raises(ValueError, match="1 has no value of roles/gap"):
        tradeoff_chart(
            {**models, "1": {"names/acc1": 0.4}},
            quality="names/acc1",
            bias="roles/gap",
            details=DETAILS,
        )


def test_models_that_differ_in_more_than_parameters_are_refused(runs):
    a, b = map(load_model, runs)
    other = load_model(runs[1], changes={"texts.lower": False})
    with pytest.raises(ValueError, match=r"has texts\.lower True"):
        mix(a, other, 0.5)
    narrow = b._replace(params={**b.params, "img": {"x": b.params["bias"]}})
    with pytest.raises(ValueError, match="different architectures"):
        mix(a, narrow, 0.5)
    for words in (["--weights", "2"], ["--weights", "0", "0"]):
        with pytest.raises(SystemExit, match="numbers from 0 to 1"):
            interpolate.main(["--workdir", *map(str, runs), *words])
