"""Keys on the command line: set whether the file has them or not, and refused with the nearest one."""

from typing import Any

import pytest

from bias_clip.train.config import validate
from bias_clip.train.config_io import to_plain
from bias_clip.train.options.overrides import apply_overrides, read_value
from configs.emoji import get_config as get_emoji
from tests.train.tiny import tiny_config, use_squares


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)


def overridden(*overrides, config=None):
    config = tiny_config() if config is None else config
    apply_overrides(config, overrides)
    return config


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("batch_size=64", 64),
        ("total=9_000 examples", "9_000 examples"),
        ("optimizer.lr=1", 1.0),
        ("optimizer.eps=1e-9", 1e-9),  # of adamw; the file does not set it
        ("model.scan=False", False),
        ("model.image.width=64", 64),
        ("model.text.num_heads=None", None),
        ("schedule.floor=0.1", 0.1),
        ("mesh.fsdp=2", 2),
        ("accumulation.mode=cached", "cached"),
        ("guards.max_grad_norm=2.5", 2.5),
        ("guards=None", None),
        ("ema_decay=0.99", 0.99),
        ("keep_every=50%", "50%"),
        ("data.balance.switch=3", 3),
        ("data.balance.table=t.parquet", "t.parquet"),
        ("data.columns.labels=name", "name"),
        ("data.columns.prior.share_of=name", "name"),
        ("data.source.shift=3", 3),
        ("init_from.only=img,txt", ("img", "txt")),
        ("objective.fairkl.coef=1", 1.0),
        ("objective.sigmoid.chunk_size=8", 8),
        ("evals.color.canonical=False", False),
        ("evals.color.source.shift=-3", -3),
        ("optimizer.freeze=('img',)", ("img",)),
        ("sinks=wandb", ("wandb",)),
    ],
)
def test_a_key_is_set_by_its_type_in_the_schema_or_in_the_receiver(override, value):
    got = to_plain(overridden(override))
    for key in override.partition("=")[0].split("."):
        got = got[key]
    assert type(got) is type(value) or isinstance(value, tuple)
    assert got == (list(value) if isinstance(value, tuple) else value)


def test_an_evaluator_and_a_source_that_the_file_does_not_have():
    config = overridden(
        "evals.zs.source.shift=2",  # in any order: the names are read first
        "evals.zs.source.name=squares",
        "evals.zs.label=name",
        "evals.zs.type=zeroshot",
        "evals.color=None",
        "objective.softmax.coef=0.5",
        "objective.sigmoid=None",
    )
    validate(config)
    assert to_plain(config.evals) == {
        "zs": {"type": "zeroshot", "source": {"name": "squares", "shift": 2}, "label": "name"}
    }
    assert to_plain(config.objective) == {"softmax": {"coef": 0.5}}


def test_another_source_drops_the_arguments_that_it_does_not_take():
    config = overridden("data.source.name=array_record", "data.source.path=x", config=get_emoji())
    assert to_plain(config.data.source) == {"name": "array_record", "path": "x"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batchsize=3", "config has 'batchsize'.*Did you mean 'batch_size'"),
        ("data.sorce.name=emoji", "Did you mean 'source'"),
        ("data.source.name=squarez", "Did you mean 'squares'"),
        ("data.source.shfit=3", "source has 'shfit'.*Did you mean 'shift'"),
        ("data.columns.label=name", "Did you mean 'labels'"),
        ("model.image.widht=3", "Did you mean 'width'"),
        ("model.image.remat=full", "model.image has 'remat'"),
        ("objective.fairkll.coef=1", "Did you mean 'fairkl'"),
        ("objective.fairkl.axis_name=data", "has 'axis_name'"),
        ("objective.sigmoid.weigh_candidates=True", "write config.objective.sigmoid.weight_cand"),
        ("evals.color.labl=name", "Did you mean 'label'"),
        ("evals.new.label=name", "config.evals.new has no 'type'; expected one of"),
        ("evals.new=None", "config.evals has 'new'; expected one of"),
        ("evals.color.type=zeroshoot", "Did you mean 'zeroshot'"),
        ("optimizer.weightdecay=1", "Did you mean 'weight_decay'"),
        ("optimizer.schedule=1", "optimizer has 'schedule'"),
        ("mesh.fsdp=2.5", "config.mesh.fsdp is '2.5'; expected int"),
        ("model.scan=maybe", "expected bool"),
        ("seed", "got 'seed'; expected key=value"),
    ],
)
def test_a_key_that_nothing_has_is_refused_with_the_nearest(override, message):
    with pytest.raises(ValueError, match=message):
        overridden(override)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("10_000", int, 10_000),
        ("None", int | None, None),
        ("None", str, "None"),
        ("1", float, 1.0),
        ("a, b", tuple, ("a", "b")),
        ("{'a': 1}", dict, {"a": 1}),
        ("10%", Any, "10%"),
        ("500", int | str, 500),
    ],
)
def test_a_text_is_read_by_its_type(text, hint, value):
    got = read_value("config.x", text, hint)
    assert (got, type(got)) == (value, type(value))
