"""A workdir in a bucket: all that a folder has, as exact, and nothing of it lost."""

import json
import os
import random
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from bias_clip.cli.compare import read_group
from bias_clip.core import storage
from bias_clip.core.storage import NotSavedError, check_folder, run_folder
from bias_clip.train import loop
from bias_clip.train.display.goodput import PARTS as GOODPUT
from bias_clip.train.hosts.watchdog import Watchdog, describe_hosts
from bias_clip.train.loop import train
from bias_clip.train.metrics import MetricWriter
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir import checkpoint
from bias_clip.train.workdir.folder import open_workdir
from bias_clip.train.workdir.initial_state import load_params
from bias_clip.train.workdir.load_run import load_run
from tests.train.hosts import pod
from tests.train.tiny import share_compiled, tiny_config, use_squares
from tests.train.workdir import bucket

TIMED = {"seconds", "examples_per_second", "mfu", "input_wait", "goodput"}
TIMED |= {f"goodput/{part}" for part in GOODPUT}
LAST_LINE: dict[int, int] = {}


@pytest.fixture(scope="module")
def environ():
    with bucket.running() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)
    share_compiled(monkeypatch)


@pytest.fixture(scope="module")
def there(environ):
    """A run in the bucket; before each save, `LAST_LINE` notes the last step that is written."""
    workdir, save = run_folder("gs://bucket/whole"), checkpoint.save

    def watched(manager, step, *arguments):
        LAST_LINE[step] = lines(workdir)[-1]["step"]
        save(manager, step, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        share_compiled(patch)
        patch.setattr(checkpoint, "save", watched)
        train(tiny_config(), "gs://bucket/whole", command="a command")
    return workdir


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same run in a folder."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        use_squares(patch)
        share_compiled(patch)
        train(tiny_config(), workdir, command="a command")
    return workdir


def lines(workdir):
    records = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]


def final_state(workdir):
    setup = make_setup(tiny_config(), mesh=make_mesh(), examples_per_epoch=40)
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=2) as manager:
        return checkpoint.restore(manager, manager.latest_step(), setup.abstract_state)[0]


def assert_same_run(one, other):
    assert lines(one) == lines(other)
    for a, b in zip(*(jax.tree.leaves(final_state(w)) for w in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def names(folder):
    return sorted(path.name.rstrip("/") for path in folder.iterdir())


def test_a_run_leaves_in_a_bucket_what_it_leaves_in_a_folder(here, there):
    assert names(there) == names(here)
    assert names(there / "evals") == names(here / "evals")
    assert len(names(there / "tensorboard")) == 1
    assert_same_run(here, there)
    assert (there / "config.json").read_text() == (here / "config.json").read_text()
    assert "a command" in (there / "report.html").read_text()


def test_what_reads_a_run_reads_one_in_a_bucket(here, there):
    setup = make_setup(tiny_config(), mesh=make_mesh(), examples_per_epoch=40)
    mine, _ = load_params(setup.abstract_state.params, path=str(here))
    theirs, report = load_params(setup.abstract_state.params, path="gs://bucket/whole")
    assert "gs://bucket/whole/checkpoints/8" in report
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    trained = load_run(Path("gs://bucket/whole"))  # as argparse gives it: one slash is lost
    assert trained.step == 8
    assert str(trained.workdir) == "gs://bucket/whole"
    assert read_group([Path("gs://bucket/whole")]) == read_group([here])


@pytest.mark.parametrize("crash_at", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_crashed_run_continues_bit_for_bit(there, monkeypatch, crash_at):
    """Checkpoints are of steps 3 and 6: the lines of 4 are in the bucket by then, or come again."""
    workdir = run_folder(f"gs://bucket/crash_{crash_at}")
    to_global, batches = loop.to_global, 0

    def crash(*arguments):
        nonlocal batches
        batches += 1
        if batches == crash_at:
            raise RuntimeError("crash")
        return to_global(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "to_global", crash)
        with pytest.raises(RuntimeError, match="crash"):
            train(tiny_config(), workdir, command="")
    train(tiny_config(), workdir, command="")
    assert_same_run(there, workdir)


def test_lines_are_there_before_the_checkpoint_that_they_lead_to(there):
    """A run that is killed right after a save has all of its past in the bucket."""
    assert LAST_LINE == {3: 2, 6: 6, 8: 8}


def test_lines_come_by_and_by(environ, monkeypatch):
    workdir = run_folder("gs://bucket/slow")
    writer = MetricWriter(workdir, start_step=0)
    writer.write(1, {"train/loss": 1.0})
    assert not (workdir / "metrics.jsonl").exists()  # a minute has not passed
    now = time.monotonic()
    monkeypatch.setattr(storage.time, "monotonic", lambda: now + storage.UPLOAD_SECONDS)
    writer.write(2, {"train/loss": 1.0})
    assert [line["step"] for line in lines(workdir)] == [1, 2]
    writer.write(3, {"train/loss": 1.0})
    local = writer._files.folder
    assert [line["step"] for line in lines(workdir)] == [1, 2]
    assert local.is_dir()
    writer.close()
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3]
    assert not local.exists()


def test_a_run_of_another_config_is_refused(there):
    with pytest.raises(ValueError, match="gs://bucket/whole holds a run of another config"):
        open_workdir(there, tiny_config(seed=7))


def test_a_bucket_that_is_not_there_is_said_before_the_first_step(environ):
    with pytest.raises(ValueError, match="workdir gs://missing/run cannot be written: ") as raised:
        train(tiny_config(), "gs://missing/run", command="")
    assert "\n" not in str(raised.value)


def test_what_cannot_be_written_is_not_saved(environ, monkeypatch):
    """Whatever class the error of a layer below has."""
    workdir = run_folder("gs://bucket/broken")
    writer = MetricWriter(workdir, start_step=0)
    writer.write(1, {"train/loss": 1.0})

    def refuse(*_):
        raise RuntimeError("503 backend error")

    monkeypatch.setattr(type(workdir), "write_bytes", refuse)
    with pytest.raises(NotSavedError, match=r"metrics.jsonl cannot be written: 503 backend error"):
        writer.flush()
    local = writer._files.folder
    with pytest.raises(NotSavedError):
        writer.close()
    assert '"step": 1' in (local / "metrics.jsonl").read_text()  # nothing computed is lost


def test_hosts_see_each_other_through_a_bucket(environ, monkeypatch):
    workdir = run_folder("gs://bucket/hosts")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert describe_hosts(workdir, 2).count("has given no sign") == 2
    dog = Watchdog(workdir, seconds=None, step=4)
    dog.doing("input")
    dog._give_sign()
    said = describe_hosts(workdir, 2)
    assert "process 0: after step 4 in 'input'" in said
    assert "process 1: has given no sign" in said


@pytest.mark.parametrize("text", ["gs://bucket/a/run", "gs:/bucket/a/run"])
def test_addresses_of_buckets(text):
    folder = run_folder(text)
    assert str(folder / "checkpoints") == "gs://bucket/a/run/checkpoints"
    assert str(run_folder(folder)) == str(run_folder(Path(text))) == "gs://bucket/a/run"


@pytest.mark.parametrize("text", ["s3://bucket/run", "gs://bucket", "gs://", "hdfs:/a/b"])
def test_other_addresses_are_refused(text):
    with pytest.raises(ValueError, match=r"expected a folder .* or gs://bucket/folder"):
        run_folder(text)


@pytest.mark.parametrize("text", ["runs/a", "/runs/gs:/x", "C:/runs"])
def test_folders_are_folders(text):
    assert run_folder(text) == Path(text)


def test_where_only_a_folder_will_do():
    with pytest.raises(ValueError, match=r"expected a folder\. Mount"):
        check_folder("gs://bucket/run")


def test_a_missing_gcsfs_is_said(monkeypatch):
    monkeypatch.setattr(storage, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install gcsfs"):
        run_folder("gs://bucket/run")


@pytest.mark.slow
def test_two_processes_killed_at_random_end_as_if_they_had_never_been(environ, tmp_path):
    """The real command on two hosts that share nothing but the bucket; their images come from processes."""
    flags = ["--config.checkpoint.every=4 steps"]
    pod.finish(*pod.start_pod(tmp_path / "a", "gs://bucket/pod_a", environ=environ, flags=flags))
    flags = [*flags, "--config.data.num_workers=1"]
    draw, kills = random.Random(0), 0
    while True:
        runs = pod.start_pod(tmp_path / "b", "gs://bucket/pod_b", environ=environ, flags=flags)
        end = time.monotonic() + draw.uniform(8, 25)
        while time.monotonic() < end and any(run.poll() is None for run in runs):
            time.sleep(0.1)
        if kills == 1 or all(run.poll() == 0 for run in runs):
            break
        for run in runs:
            run.kill()
            run.communicate()
        kills += 1
    pod.finish(*runs)
    assert kills > 0
    one, other = (pod.metrics(run_folder(f"gs://bucket/pod_{name}")) for name in "ab")
    assert one.keys() == other.keys()
    for step in one:
        for name in one[step].keys() - TIMED:
            assert one[step][name] == other[step][name], (step, name)
    assert os.listdir(tmp_path / "b") == os.listdir(tmp_path / "a")
