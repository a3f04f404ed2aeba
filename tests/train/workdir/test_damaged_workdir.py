"""Damage to each file of a workdir in turn: the run continues exactly, or one line names the file."""

import json
import os
import random
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from bias_clip.core.storage import NotSavedError
from bias_clip.train import loop
from bias_clip.train.display.goodput import PARTS
from bias_clip.train.loop import train
from bias_clip.train.workdir import lock
from tests.fuzzing import SEED, Outcomes
from tests.train.tiny import share_compiled, tiny_config, use_squares

TOTAL, STOPPED = 6, 4
TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}
TIMED |= {f"goodput/{part}" for part in PARTS}
# Each has another name in every run, or is read by nobody: whatever happens to them, the run continues.
WRITTEN_AGAIN = ("run.json", "report.html", "evals/", "tensorboard/", "lock")
DAMAGES = {
    "removed": lambda path, rng: path.unlink(),
    "emptied": lambda path, rng: path.write_bytes(b""),
    "cut": lambda path, rng: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "random": lambda path, rng: path.write_bytes(rng.randbytes(path.stat().st_size)),
    "flipped": lambda path, rng: _flip(path, rng),
}

# CI has time for three of them; with FUZZ set, all are tried.
TRIED = tuple(DAMAGES) if "FUZZ" in os.environ else ("removed", "cut", "flipped")


def _flip(path, rng):
    raw = bytearray(path.read_bytes())
    if raw:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def monkey():
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        share_compiled(patch)
        # A damaged lock has an owner without a name, who is watched for a minute.
        patch.setattr(lock.take, "__kwdefaults__", {"patience": 0.3})
        yield patch


def config_of(start):
    config = tiny_config(total=f"{TOTAL} steps", checkpoint__every="2 steps", log_every="1 steps")
    config.evaluation.every = "2 steps"
    with config.unlocked():
        config.init_from = dict(path=str(start / "checkpoints"))
    return config


@pytest.fixture(scope="module")
def stopped(monkey, tmp_path_factory):
    """(config, what a whole run gives, a workdir that stopped in the midst, with every file)."""
    tmp_path = tmp_path_factory.mktemp("damaged")
    first = tiny_config(total="2 steps", checkpoint__every="2 steps")
    train(first, tmp_path / "start", command="")
    config = config_of(tmp_path / "start")
    train(config, tmp_path / "whole", command="")
    with monkey.context() as patch:
        patch.setattr(loop, "asked_to_stop", lambda step: step == STOPPED)
        with pytest.raises(loop.Interrupted):
            train(config, tmp_path / "stopped", command="")
    left = json.loads(lock._content("left"))
    left["life"] = left["life"].rpartition(" ")[0] + " 1"  # of a process that has ended
    (tmp_path / "stopped" / "lock").write_text(json.dumps(left))
    return config, result(tmp_path / "whole"), tmp_path / "stopped"


def result(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    metrics = [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
    state = ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(TOTAL) / "state")
    return [line for line in metrics if len(line) > 1], ocp.tree.to_flat_dict(state, sep="/")


def assert_equal(got, expected, *, lines_may_lack):
    (metrics, state), (other_metrics, other) = got, expected
    if lines_may_lack:  # they were the damaged file
        metrics = [line for line in metrics if line["step"] > STOPPED]
        other_metrics = [line for line in other_metrics if line["step"] > STOPPED]
    assert metrics == other_metrics
    assert state.keys() == other.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def some_files(base, rng):
    """All files outside of the checkpoints, and some of those: test_faults.py damages each of these."""
    names = sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())
    saved = [n for n in names if n.startswith("checkpoints/")]
    newest = [n for n in saved if n.split("/")[1] == str(STOPPED)]
    chosen = {
        rng.choice(saved),
        *rng.sample(newest, min(int(os.environ.get("FUZZ", 5)), len(newest))),
    }
    return sorted({*names} - {*saved} | chosen)


@pytest.mark.slow
@pytest.mark.parametrize("how", TRIED)
def test_damage_to_each_file_of_a_workdir_is_named_or_without_effect(stopped, capsys, how):
    config, expected, base = stopped
    rng, outcomes = random.Random(SEED), Outcomes(f"files of a workdir, {how}")
    names = some_files(base, rng)
    for place in ("config.json", "run.json", "start.json", "metrics.jsonl", "goodput.json", "lock"):
        assert place in names
    seen = set()
    for name in names:
        workdir = base.with_name("damaged")
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(base, workdir)
        DAMAGES[how](workdir / name, rng)

        def run(workdir=workdir, name=name):
            try:
                train(config, workdir, command="")
            except NotSavedError as error:
                raise AssertionError("a damaged file is not one that cannot be written") from error
            may_lack = name == "metrics.jsonl"
            assert_equal(result(workdir), expected, lines_may_lack=may_lack)

        part = name.split("/")[1] if name.startswith("checkpoints/") else name
        wanted = [str(workdir / "checkpoints" / part)] if part != name else [str(workdir / name)]
        kind = "checkpoints" if part != name else name.partition("/")[0]
        before = outcomes.counts[f"{kind} taken"]
        outcomes.note(kind, wanted, run)
        if outcomes.counts[f"{kind} taken"] > before:
            seen.add(name)
    outcomes.check(capsys)
    assert {n for n in names if n.startswith(WRITTEN_AGAIN)} <= seen
