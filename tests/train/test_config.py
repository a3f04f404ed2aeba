"""What a config may say, and what it is told when it may not."""

import json

import pytest

from bias_clip.train.config import from_plain, load_config, to_plain, validate
from configs.default import get_config
from tests.train.tiny import tiny_config, use_squares


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)


def test_tiny_and_default_configs_are_valid():
    validate(tiny_config(), get_config())
    validate(get_config(), get_config())


def broken(change):
    config = tiny_config()
    with config.unlocked(), config.ignore_type():
        change(config)
    return config


def set_key(path, value):
    def change(config):
        *parents, last = path.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


CASES = {
    "misspelt key": (set_key("batchsize", 3), "'batchsize'.*Did you mean 'batch_size'"),
    "misspelt nested key": (set_key("data.prefech", 3), "'prefech'.*'prefetch'"),
    "wrong type": (set_key("batch_size", "256"), r"batch_size is '256' \(str\); expected int"),
    "bool is no int": (set_key("seed", True), "expected int"),
    "unknown loss": (set_key("objective.sigmod", {"coef": 1.0}), "Did you mean 'sigmoid'"),
    "no loss": (lambda c: c.objective.__delitem__("sigmoid"), "at least one of"),
    "loss without factor": (lambda c: c.objective.sigmoid.__delitem__("coef"), "lacks 'coef'"),
    "misspelt loss argument": (set_key("objective.sigmoid.margn", 1.0), "Did you mean 'margin'"),
    "unknown source": (set_key("data.source.name", "imagnet"), "'imagnet'; expected one of"),
    "unknown source argument": (set_key("data.source.splitt", "train"), "'splitt'"),
    "unknown op": (set_key("data.image", "decode|resiz(64)"), "resiz"),
    "unknown evaluator": (set_key("evals.color.type", "zeroshoot"), "Did you mean 'zeroshot'"),
    "evaluator without source": (lambda c: c.evals.color.__delitem__("source"), "lacks 'source'"),
    "misspelt evaluator argument": (set_key("evals.color.labl", "name"), "Did you mean 'label'"),
    "unknown schedule": (set_key("schedule.name", "cosin"), "Did you mean 'cosine'"),
    "missing key": (lambda c: c.__delitem__("optimizer"), r"lacks \['optimizer'\]"),
    "lengths differ": (set_key("data.text.length", 9), "length is 9.*set both"),
    "too few pieces": (set_key("model.text.vocab_size", 5), "has 2000 pieces"),
    "empty batch": (set_key("batch_size", 0), "at least 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_config_is_refused_with_what_is_valid(name):
    change, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        validate(broken(change), get_config())


def test_plain_form_survives_json():
    config = tiny_config()
    again = from_plain(json.loads(json.dumps(to_plain(config))))
    assert to_plain(again) == to_plain(config)
    assert again.model.image.size == 16


def test_missing_config_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no config file .*nothing\.py"):
        load_config(tmp_path / "nothing.py")


def test_plain_config_keeps_the_order_of_the_file():
    config = get_config()
    config.evals = dict(second=dict(type="b", source={}), first=dict(type="a", source={}))
    assert list(to_plain(config)["evals"]) == ["second", "first"]
    assert list(to_plain(from_plain(to_plain(config)))["evals"]) == ["second", "first"]
