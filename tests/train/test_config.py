"""What a config may say, and what it is told when it may not."""

import importlib.util
import json
import sys

import pytest

from bias_clip.train.config import validate
from bias_clip.train.config_io import from_plain, load_config, to_plain
from configs.default import get_config
from tests.train.tiny import tiny_config, use_squares


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)


def test_tiny_and_default_configs_are_valid():
    validate(tiny_config())
    validate(get_config())


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
    "evaluator in a folder": (
        lambda c: c.evals.__setitem__("a/b", c.evals.color),
        "config.evals has the name 'a/b'",
    ),
    "misspelt evaluator argument": (set_key("evals.color.labl", "name"), "Did you mean 'label'"),
    "unknown schedule": (set_key("schedule.name", "cosin"), "Did you mean 'cosine'"),
    "missing key": (lambda c: c.__delitem__("optimizer"), r"lacks \['optimizer'\]"),
    "lengths differ": (set_key("data.text.length", 9), "length is 9.*set both"),
    "too few pieces": (set_key("model.text.vocab_size", 5), "has 2000 pieces"),
    "renamed argument": (
        set_key("objective.sigmoid.weigh_candidates", True),
        "weigh_candidates is now called 'weight_candidates'",
    ),
    "unknown sink": (set_key("sinks", ("wandbb",)), "Did you mean 'wandb'"),
    "empty batch": (set_key("batch_size", 0), "at least 1"),
    "average that grows": (set_key("ema_decay", 1.98), r"ema_decay.*in \[0, 1\), got 1.98"),
    "average of nan": (set_key("ema_decay", float("nan")), "config.ema_decay is nan"),
    "factor of nan": (set_key("objective.sigmoid.coef", float("nan")), "sigmoid.coef is nan"),
    "chunks of nothing": (set_key("objective.sigmoid.chunk_size", 0), "chunk_size: got 0"),
    "no checkpoint": (set_key("checkpoint.keep", 0), "checkpoint.keep is 0"),
    "stall of nan": (set_key("stall_seconds", float("nan")), "config.stall_seconds is nan"),
    "one value for all": (
        set_key("data.image", "decode|resize(16)|value_range(1,1)"),
        "data.image: value_range got 1 to 1",
    ),
    "size of another model": (
        set_key("data.image", "decode|resize(32)|value_range(-1,1)"),
        r"data.image: .*\(32, 32, 3\), but config.model.image.size is 16",
    ),
    "section that is none": (set_key("optimizer", "adamw"), "config.optimizer is 'adamw'"),
    "number that is text": (set_key("optimizer.lr", "x"), "config.optimizer.lr is 'x'"),
    "letters for regexes": (set_key("optimizer.freeze", "img"), "config.optimizer.freeze is 'img'"),
    "average over nothing": (set_key("guards.max_consecutive", 0), "max_consecutive is 0"),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_config_is_refused_with_what_is_valid(name):
    change, message = CASES[name]
    with pytest.raises(ValueError, match=message):
        validate(broken(change))


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


OWN = """
from bias_clip.train.options.schema import default_config
from helpers import SIZE


def get_config(size="48"):
    config = default_config()
    config.data.image = f"decode|resize({size})|value_range(-1,1)"
    config.batch_size = SIZE
    return config
"""


def test_a_config_in_any_folder_works_and_imports_its_neighbours(tmp_path):
    (tmp_path / "helpers.py").write_text("SIZE = 7\n")
    (tmp_path / "own.py").write_text(OWN)
    config = load_config(tmp_path / "own.py", "64")
    validate(config)
    assert config.batch_size == 7
    assert "resize(64)" in config.data.image


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("def other(): pass", (), "defines no function get_config"),
        ("def get_config(): pass", ("big",), "got 'big' after the colon, but get_config\\(\\)"),
        ("def get_config(size): pass", (), "got nothing after a colon, but get_config\\(size\\)"),
    ],
)
def test_a_file_that_gives_no_config_is_refused(tmp_path, text, arguments, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path / "own.py", *arguments)


def test_the_examples_are_there_where_no_folder_has_their_name(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "configs" else find(n))
    for folder, size in (("one", 7), ("two", 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text("from configs.emoji_people import get_config\n")
        text = f"from bias_clip.train.options.schema import default_config\nSIZE = {size}\n"
        (tmp_path / folder / "base.py").write_text(text)
        (tmp_path / folder / "more.py").write_text(
            "from configs.base import SIZE, default_config\n\n\ndef get_config():\n"
            "    config = default_config()\n    config.batch_size = SIZE\n    return config\n"
        )
        assert load_config(tmp_path / folder / "own.py").model.image.size == 32
        assert load_config(tmp_path / folder / "more.py").batch_size == size
    monkeypatch.delitem(sys.modules, "configs")
