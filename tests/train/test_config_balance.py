"""What a config may say of balanced data."""

import jax.numpy as jnp
import pytest

from bias_clip.train.config import validate
from bias_clip.train.config_io import to_plain
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from configs.emoji_m4 import get_config as get_m4
from tests.train.tiny import tiny_config, use_squares

TABLE = {"table": "w.parquet", "use": "thin"}


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)


def balanced(**arguments):
    config = tiny_config()
    config.data.balance = {**TABLE, **arguments}
    return config


def switch_of(config):
    return make_setup(config, mesh=make_mesh(), examples_per_epoch=40).switch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use": "thinn"}, "balance.use has 'thinn'.*Did you mean 'thin'"),
        ({"first": "balancd"}, "balance.first has 'balancd'.*Did you mean 'balanced'"),
        ({"shard": 1}, "balance has 'shard'"),
        ({"seed": "0"}, "balance.seed is '0'.*expected int"),
        ({"table": 3}, r"balance.table is 3 \(int\); expected str"),
        ({"switch": "101%"}, "longer than the run"),
        ({"switch": "half"}, "Cannot read the duration 'half'"),
    ],
)
def test_wrong_balance_is_refused_with_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=message):
        validate(balanced(**arguments))


@pytest.mark.parametrize("use", ["thin", "weight"])
def test_weights_of_two_origins_are_refused(use):
    config = balanced(use=use)
    config.data.columns = {"weights": "name"}
    with pytest.raises(ValueError, match=r"columns.weights are both set"):
        validate(config)


def test_a_balance_without_its_use_is_refused():
    config = tiny_config()
    config.data.balance = {"table": "w.parquet"}
    with pytest.raises(ValueError, match=r"balance lacks \['use'\]"):
        validate(config)


def test_candidates_can_be_weighed_by_a_table():
    config = balanced(use="weight")
    with config.unlocked():
        config.objective.sigmoid.weight_candidates = True
    validate(config)
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=40)
    assert setup.abstract_batch["weights"].dtype == jnp.float32
    config.data.balance.use = "thin"
    with pytest.raises(ValueError, match=r"needs \['weights'\] in every batch"):
        validate(config)


@pytest.mark.parametrize(
    ("switch", "step"),
    [("0%", 0), ("50%", 4), ("100%", 8), ("3 steps", 3), ("32 examples", 2), ("1 epochs", 3)],
)
def test_a_switch_is_a_duration_of_the_run(switch, step):
    assert switch_of(balanced(switch=switch)) == step


def test_without_a_switch_there_is_none():
    assert switch_of(tiny_config()) is None
    assert switch_of(balanced()) is None


def test_a_switch_after_the_end_is_refused():
    with pytest.raises(ValueError, match=r"switch is '9 steps', step 9, after the end.* 8 steps"):
        switch_of(balanced(switch="9 steps"))


@pytest.mark.parametrize("arguments", ["thin,balanced,10%", "weight,plain,90%"])
def test_the_experiment_on_emoji_is_valid(arguments):
    config = get_m4(arguments)
    validate(config)
    use, first, switch = arguments.split(",")
    assert to_plain(config.data.balance) == {
        "table": "runs/m4/weights.parquet",
        "use": use,
        "seed": 0,
        "first": first,
        "switch": switch,
    }
    with pytest.raises(ValueError, match="expected use, first stage and how long"):
        get_m4("thin")
