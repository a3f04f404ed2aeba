"""A suite in a config: an evaluator per part, with intervals, in the report and in comparisons."""

import json

import numpy as np
import pytest

from bias_clip.cli.compare import main
from bias_clip.evals.results import EvalResult
from bias_clip.evals.suites.evaluator import make_suite_parts
from bias_clip.report.run_tiles import make_tile
from bias_clip.train.config import validate
from bias_clip.train.config_io import load_config
from bias_clip.train.evaluation import make_evaluators, write_results
from tests.evals.suites.folders import visogender
from tests.evals.suites.test_run import ENCODE


def test_a_suite_of_several_parts_is_several_evaluators(tmp_path):
    made = make_evaluators(
        {
            "people": {"type": "suite", "suite": "visogender", "path": str(visogender(tmp_path))},
            "roles": {"type": "suite", "suite": "emoji_roles", "resamples": 50},
        }
    )
    assert list(made) == ["people_resolution", "people_retrieval", "roles"]
    result = made["roles"](ENCODE)
    low, high = result.details["intervals"]["acc"]
    assert low <= result.metrics["acc"] <= high
    json.dumps(result.details, allow_nan=False)


def test_a_part_does_not_take_the_name_of_another_evaluator(tmp_path):
    suite = {"type": "suite", "suite": "visogender", "path": str(visogender(tmp_path))}
    roles = {"type": "suite", "suite": "emoji_roles", "resamples": 50}
    for evals in ({"a": suite, "a_retrieval": roles}, {"a_retrieval": roles, "a": suite}):
        with pytest.raises(ValueError, match="two evaluators the name 'a_retrieval'"):
            make_evaluators(evals)


def test_the_parts_of_a_checkpoint_are_embedded_once(tmp_path):
    calls = []
    encode = ENCODE._replace(images=lambda source: calls.append(1) or ENCODE.images(source))
    for run in make_suite_parts(suite="visogender", path=str(visogender(tmp_path))).values():
        run(encode)
    assert len(calls) == 3  # one person, two people, and these again for retrieval


def test_sizes_of_gaps_have_intervals_that_do_not_fall_below_nothing():
    for suite in ("emoji_roles", "emoji_association"):
        details = make_suite_parts(suite=suite, resamples=100)["all"](ENCODE).details
        ends = {k: v for k, v in details["intervals"].items() if k not in ("acc", "pairs_signed")}
        assert ends
        assert all(0 <= low <= high <= 1 for low, high in ends.values())


def test_a_config_names_a_suite_without_a_source():
    config = load_config("configs/emoji.py")
    with config.unlocked():
        config.evals.roles = dict(type="suite", suite="emoji_roles")
    validate(config)
    with config.unlocked():
        config.evals.roles = dict(type="suite", suite="emoji_roles", sorce=1)
    with pytest.raises(ValueError, match="sorce"):
        validate(config)


def test_intervals_stand_on_tiles_and_in_comparisons(tmp_path, capsys):
    result = make_suite_parts(suite="emoji_roles", resamples=50)["all"](ENCODE)
    tile = make_tile("roles", EvalResult(result.metrics, result.details))
    assert all(number.against.startswith("[") for number in tile.numbers)
    for name in ("a", "b", "c"):
        write_results(tmp_path / name / "evals", 1, {"roles": result})
    main(
        [
            f"one={tmp_path / 'a'}",
            f"two={tmp_path / 'b'},{tmp_path / 'c'}",
            "--metrics",
            "roles/(acc|images|chance)$",
            "--plot",
            str(tmp_path / "page.html"),
        ]
    )
    page = (tmp_path / "page.html").read_text()
    assert page.count("<figure") == 1  # no chart of counts and of chance
    assert page.count('class="span"') == 2  # an interval, and the line between two runs
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "roles/acc" in line]
    assert np.sum([cell.count("[") for cell in row.split("|")]) == 1
    assert "±" in row
