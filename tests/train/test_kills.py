"""The real command, killed at random moments of every kind, ends as if it had never been.

`KILLS=50 pytest -m slow tests/train/test_kills.py` kills it more often than CI has time for.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bias_clip.train.display.goodput import PARTS as GOODPUT

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("KILLS", 12))
TOTAL = 20 + 2 * KILLS  # steps; more than the runs that are killed make together
TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}
TIMED |= {f"goodput/{part}" for part in GOODPUT}
# Which part of the work a kill waits for, and how long after its start it may come, in seconds.
PARTS = {"compile": 0.5, "step": 0.05, "save": 0.1, "evaluate": 0.1}
TRIES = 20  # at a part that no random moment has met

# A config that also writes down what the run is at and which examples it sees; loaded by the run.
CONFIG = """
import json
import os
import time

from bias_clip.data.sources import SOURCES
from bias_clip.train import loop, stream
from bias_clip.train.metrics import Clock
from tests.train.tiny import squares_source, tiny_config

SOURCES["squares"] = squares_source
FOLDER = os.environ["KILLS_FOLDER"]


def get_config():
    config = tiny_config(total="{total} steps", log_every="1 steps")
    config.checkpoint.every, config.evaluation.every = "1 steps", "2 steps"
    return config


def say(part):
    with open(FOLDER + "/part", "a") as file:
        file.write(part + " ")


def watch():
    timed, to_global = Clock.timed, loop.to_global

    def told(self, part, function, *arguments):
        say(part)
        result = timed(self, part, function, *arguments)
        say("step")
        if part == "input":
            time.sleep(0.03)  # on a quick machine these steps would be too short to be met
        return result

    Clock.timed = told
    make = stream.make_train_iterator

    def recording(*arguments, **named):
        iterator = make(*arguments, **named)

        class Recording(type(iterator)):
            def __next__(self):
                batch = super().__next__()
                row = [self.get_state()["step"], batch["index"].tolist()]
                with open(FOLDER + "/examples", "a") as file:
                    file.write("\\n" + json.dumps(row))  # the line before may be cut short
                return batch

        iterator.__class__ = Recording
        return iterator

    stream.make_train_iterator = recording


if not hasattr(Clock, "watched"):
    Clock.watched = True
    watch()
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills") / "kill_configs"
    folder.mkdir()
    (folder / "tiny.py").write_text(CONFIG.replace("{total}", str(TOTAL)))
    return folder


def start(configs, folder):
    folder.mkdir(exist_ok=True)
    (folder / "part").write_text("")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bias_clip.train"),
            *(f"--config={configs / 'tiny.py'}", f"--workdir={folder / 'run'}"),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(configs),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(configs / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "KILLS_FOLDER": str(folder),
        },
    )


def finish(configs, folder):
    run = start(configs, folder)
    _, errors = run.communicate()
    assert run.returncode == 0, errors


def kill_after(run, folder, part, delay):
    """Kills the run a moment after it has begun with `part`; returns what it was in then."""
    _wait(run, folder, lambda parts: _has_begun(part, parts))
    time.sleep(delay)
    return _kill(run, folder)


def kill_in(run, folder, part):
    """Kills the run while it is in `part`, if it can; returns what it was in then."""
    _wait(run, folder, lambda parts: _has_begun(part, parts) and parts[-1] == part)
    return _kill(run, folder)


def _wait(run, folder, ready):
    while not ready((folder / "part").read_text().split()):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.002)


def _kill(run, folder):
    run.send_signal(signal.SIGKILL)
    run.communicate()
    parts = (folder / "part").read_text().split()
    unfinished = list((folder / "run" / "checkpoints").glob("*.orbax-checkpoint-tmp"))
    # A save goes on in the background while the loop is in its next steps.
    return {parts[-1], *(["save"] if unfinished else [])}


def _has_begun(part, parts):
    if "compile" not in parts:
        return False
    return part == "compile" or part in parts[parts.index("compile") + 1 :]


def examples(folder):
    """The ids of each step's batch; a step that was made twice had the same both times."""
    seen = {}
    for line in (folder / "examples").read_text().splitlines():
        if line.endswith("]]"):
            step, ids = json.loads(line)
            assert seen.setdefault(step, ids) == ids, f"step {step} saw other examples"
    return seen


def result(folder):
    workdir = folder / "run"
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    metrics = [{k: v for k, v in record.items() if k not in TIMED} for record in records]
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(TOTAL) / "state")
    return metrics, ocp.tree.to_flat_dict(state, sep="/")


@pytest.mark.slow
def test_kills_in_every_part_of_the_work_change_nothing(configs, tmp_path):
    random_delay, hit = random.Random(0), Counter()
    finish(configs, tmp_path / "whole")  # fills the cache of compiled code, too
    for number in range(KILLS):
        part = list(PARTS)[number % len(PARTS)]
        run = start(configs, tmp_path / "killed")
        delay = random_delay.uniform(0, PARTS[part])
        hit.update(kill_after(run, tmp_path / "killed", part, delay))
    for part in PARTS:
        for _ in range(TRIES):
            if hit[part]:
                break
            hit.update(kill_in(start(configs, tmp_path / "killed"), tmp_path / "killed", part))
    finish(configs, tmp_path / "killed")
    print(f"kills: {dict(hit)}")
    for part in PARTS:
        assert hit[part], hit
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert {step: ids for step, ids in examples(killed).items() if step <= TOTAL} == examples(whole)
    (metrics, state), (other_metrics, other) = result(whole), result(killed)
    assert metrics == other_metrics
    assert state.keys() == other.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
