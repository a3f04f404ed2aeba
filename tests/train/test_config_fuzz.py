"""Changed configs: each is refused by us, by name, or is one that a run can be made of.

600 of them take about a minute. `FUZZ=10000` changes the number, FUZZ_SEED the random ones.
"""

import collections
import copy
import json
import random
import traceback

import jaxtyping
import pytest

from bias_clip.train.config import validate
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from tests.fuzzing import SEED, count_of
from tests.train.mutations import as_config, bases, mutate
from tests.train.tiny import use_squares

COUNT = count_of(600)
NOT_IN_SETUP = ("evals", "sinks", "stall_seconds", "init_from", "seed", "guards")


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)
    # The checks of annotations, which only tests have, would refuse before the product does.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def outcome(plain):
    """ "runs", or the message of an error of ours; else the error of another is raised."""
    try:
        config = as_config(plain)
        validate(config)
        set_up(
            json.dumps({k: v for k, v in plain.items() if k not in NOT_IN_SETUP}, default=repr),
            config,
        )
    except ValueError as error:
        if "/bias_clip/" in traceback.extract_tb(error.__traceback__)[-1].filename:
            return str(error)
        raise
    return "runs"


def make_set_up():
    made = set()

    def set_up(key, config):  # what setup does not read does not make it run again
        if key not in made:
            make_setup(config, mesh=make_mesh(**config.mesh), examples_per_epoch=3_600)
            made.add(key)

    return set_up


set_up = make_set_up()


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")  # such as NaN pixels of an operation
def test_changed_configs_are_refused_by_name_or_run(capsys):
    rng, starts = random.Random(SEED), bases()
    counts, wrong = collections.Counter(), []
    for start in starts:
        validate(as_config(start))
    for _ in range(COUNT):
        plain = copy.deepcopy(rng.choice(starts))
        keys = [mutate(plain, rng) for _ in range(1 + (rng.random() < 0.2))]
        try:
            said = outcome(plain)
        except Exception as error:  # noqa: BLE001 - the fuzzer reports all of them at the end
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}:{frame.lineno}"
            wrong.append(f"{keys}: {type(error).__name__} {str(error)[:100]} at {where}")
            counts["another's error"] += 1
            continue
        named = said == "runs" or any(part in said for key in keys for part in key.split("."))
        counts["runs" if said == "runs" else "refused"] += 1
        if not named:
            wrong.append(f"{keys} are not named in: {said[:200]}")
    with capsys.disabled():
        print(f"\nconfigs: {COUNT} of {len(starts)} bases: {dict(counts)}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:100])
