import json
import math

import numpy as np
import pytest

from bias_clip.evals import EVALUATORS, EvalResult, make_evaluator
from bias_clip.report.run_read import read_evals
from bias_clip.train.evaluation import write_results
from tests.evals.cases import ListSource, fixed_encode, normal, record

BY = {"by": "gender", "groups": ("man", "woman")}
ARGUMENTS = {
    "association": BY,
    "bias": {},
    "contrastive": {},
    "data_bias": {**BY, "label": "concept"},
    "factors": {"factors": ("concept", "gender")},
    "groups": {**BY, "label": "concept"},
    "mmvp": {"pattern": 4},
    "parity": {**BY, "classes": ("cook", "judge")},
    "probe": {"label": "concept"},
    "representation": {},
    "retrieval": {},
    "skew": {**BY, "words": ("cook", "judge"), "ks": (2, 0.5)},
    "sugarcrepe": {"by": "concept"},
    "winoground": {},
    "zeroshot": {"label": "concept"},
}


def make_case():
    """Sixteen people: two concepts, two genders."""
    source = ListSource(
        record(
            i,
            [f"caption {i}", f"another {i}"],
            concept=("cook", "judge")[i % 2],
            gender=("woman", "man", "person", "none")[i // 2 % 4],
            name=f"person {i}",
            role=1,
            tone=0,
        )
        for i in range(16)
    )
    texts = type("Texts", (dict,), {"__missing__": lambda _, text: normal(len(text), 4)})()
    return source, fixed_encode(normal(0, 16, 4), texts, scale=10.0, bias=-10.0)


@pytest.mark.parametrize("name", sorted(EVALUATORS))
def test_every_evaluator_returns_numbers_and_json(name):
    source, encode = make_case()
    arguments = dict(ARGUMENTS[name])
    if name in ("factors", "probe"):
        arguments["train_source"] = source
    evaluate = make_evaluator(name, source, **arguments)
    result = evaluate(encode)
    assert isinstance(result, EvalResult)
    assert result.details["kind"] == name
    json.dumps(result.details, allow_nan=False)
    assert result.metrics
    assert all(type(value) is float for value in result.metrics.values()), result.metrics
    np.testing.assert_equal(evaluate(encode).metrics, result.metrics)  # NaN equals NaN here


def test_unknown_names_and_arguments_list_the_valid_ones():
    source, _ = make_case()
    with pytest.raises(ValueError, match=r"'association', .*'zeroshot'"):
        make_evaluator("zero_shot", source)
    with pytest.raises(ValueError, match=r"'lable'; .*'templates'.*mean 'label'"):
        make_evaluator("zeroshot", source, lable="name")
    with pytest.raises(ValueError, match=r"lacks \['label'\]"):
        make_evaluator("zeroshot", source)


def test_results_are_json_that_every_reader_takes(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    result = EvalResult({"acc1": 1.0, "acc5": float("nan")}, {"kind": "zeroshot", "examples": []})
    write_results(tmp_path / "evals", 1, {"pets": result})
    text = (tmp_path / "evals" / "pets.json").read_text()
    assert json.loads(text, parse_constant=refuse)["metrics"] == {"acc1": 1.0, "acc5": None}
    read = read_evals(tmp_path)["pets"]["metrics"]
    assert read["acc1"] == 1
    assert math.isnan(read["acc5"])
