"""Two processes as one run, by the command that users type: equal, resumable, and never for ever."""

import os
import time

import numpy as np
import pytest

from bias_clip.evals import make_encoder
from bias_clip.train.evaluation import _own_rows, _placed
from bias_clip.train.hosts import distributed
from bias_clip.train.sharding import batch_sharding, make_mesh
from tests.evals.cases import ListSource, record
from tests.train.hosts.pod import examples, finish, free_port, metrics, signalled, start, start_pod

STEPS = range(1, 21)


def batches_of(rows):
    """The batches that a host with these rows embeds, and how many images it prepared for them."""
    batches, prepared = [], []
    encoder = make_encoder(
        embed_image=lambda _, x: batches.append(x) or np.ones((len(x), 2)),
        embed_text=lambda _, x: x,
        image_fn=lambda image, rng: prepared.append(0) or np.float32(image[:1, :1]) + 1,
        text_fn=len,
        batch_size=4,
        rows=rows,
        num_threads=1,
    )
    z = encoder(None, 1.0, 0.0).images(ListSource([record(i) for i in range(10)]))
    assert len(z) == 10
    return np.stack(batches), len(prepared)


def test_hosts_prepare_their_own_images_and_together_all():
    (all_rows, count), (first, half), (second, rest) = map(batches_of, (None, [0, 3], [1, 2]))
    np.testing.assert_array_equal(first + second, all_rows)
    assert np.all(first[:, [1, 2]] == 0)
    assert count == 10
    assert (half, rest) == (6, 5)  # the last record fills the last batch on either


def test_rows_of_a_host_are_those_of_its_devices():
    sharding = batch_sharding(make_mesh(fsdp=2))
    assert _own_rows(16, sharding) == list(range(16))
    batch = np.arange(32.0).reshape(16, 2)
    np.testing.assert_array_equal(_placed(batch, sharding), batch)


def test_the_preemption_service_is_asked_only_where_it_runs(monkeypatch):
    asked = []
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        distributed.multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step) or True,
    )
    for service, expected in ((None, False), (object(), True)):
        monkeypatch.setattr(distributed.global_state, "preemption_sync_manager", service)
        assert distributed.asked_to_stop(7) == expected
    assert asked == [7]


class Store(dict):
    """What the processes of a run tell each other."""

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite  # a second run in the same processes compares again
        self[key] = value

    def blocking_key_value_get(self, key, _milliseconds):
        return self[key]


def test_a_host_with_another_order_of_the_data_is_refused(monkeypatch):
    distributed.check_same("order", "a", advice="mend it.")  # one process: nothing to compare
    monkeypatch.setattr(distributed.global_state, "client", Store())
    for process, value in ((0, "a"), (1, "a"), (0, "b"), (1, "b")):
        monkeypatch.setattr(distributed.jax, "process_index", lambda process=process: process)
        distributed.check_same("order", value, advice="mend it.")
    with pytest.raises(
        ValueError, match="order of process 1 is c, but that of process 0 is b; mend"
    ):
        distributed.check_same("order", "c", advice="mend it.")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One process with eight devices, not interrupted."""
    folder = tmp_path_factory.mktemp("pod")
    finish(start(folder / "one", folder / "run", devices=8))
    return folder / "one", folder / "run"


def assert_same_run(workdir, other):
    got, expected = metrics(workdir), metrics(other)
    assert sorted(got) == sorted(expected) == list(STEPS)
    for step in STEPS:
        for name in ("train/loss", "train/grad_norm", "train/acc_img"):
            # Sums are made in another order: 5e-7 was measured.
            np.testing.assert_allclose(got[step][name], expected[step][name], rtol=1e-4)
    scores = {name: v for name, v in expected[20].items() if name.startswith("eval/")}
    assert len(scores) > 4
    for name, value in scores.items():
        np.testing.assert_allclose(got[20][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one(whole, tmp_path):
    record, workdir = whole
    first, second = finish(*start_pod(tmp_path / "two", tmp_path / "run"))
    assert examples(tmp_path / "two", 2) == examples(record, 1)
    assert_same_run(tmp_path / "run", workdir)
    # One speaks and writes; the other read its own half alone.
    assert "step 20/20" in first
    assert "step" not in second
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(STEPS) + 2  # the evaluation, and where the time went
    assert (tmp_path / "run" / "report.html").exists()
    assert {len(rows) for rows in examples(tmp_path / "two", 1).values()} == {8}


@pytest.mark.slow
def test_a_run_goes_from_one_process_to_two_and_back(whole, tmp_path):
    record, workdir = whole
    run = tmp_path / "run"
    finish(start(tmp_path / "a", run, devices=8, environ=signalled(6, 0, "SIGTERM")), expected=75)
    # The signal reaches one host; both save after the same step.
    pod = start_pod(tmp_path / "b", run, environ=signalled(12, 1, "SIGTERM"))
    said = finish(*pod, expected=75)
    assert len({line for text in said for line in text.splitlines() if "stopped by" in line}) == 1
    finish(start(tmp_path / "c", run, devices=8))
    assert_same_run(run, workdir)
    expected = examples(record, 1)
    last = examples(tmp_path / "c", 1)
    assert last == {step: expected[step] for step in last}


@pytest.mark.slow
def test_a_lost_host_ends_the_other_with_an_error(tmp_path):
    environ = signalled(4, 1, "SIGKILL")
    pod = start_pod(
        tmp_path / "two", tmp_path / "run", flags=["--lost_host_after=10"], environ=environ
    )
    pod[1].communicate()
    lost = time.monotonic()
    _, said = pod[0].communicate(timeout=120)
    assert pod[0].returncode not in (0, 75)
    assert time.monotonic() - lost < 60
    assert "another task died" in said or "Gloo" in said


@pytest.mark.slow
def test_a_compile_longer_than_a_lost_hosts_silence_ends_no_run(whole, tmp_path):
    """Nor does one that takes 40 s longer than the other host's: collectives wait for 30 s on CPUs."""
    pod = start_pod(
        tmp_path / "two",
        tmp_path / "run",
        flags=["--lost_host_after=10"],
        environ={"POD_SLOW_COMPILE": "40@1"},
    )
    finish(*pod)
    assert_same_run(tmp_path / "run", whole[1])


@pytest.mark.slow
def test_a_host_that_never_starts_is_named(tmp_path):
    flags = [
        f"--coordinator=127.0.0.1:{free_port()}",
        "--process_id=0",
        "--process_count=2",
        "--wait_for_hosts=2",
    ]
    run = start(tmp_path / "one", tmp_path / "run", devices=4, flags=flags)
    said = run.communicate()[1]
    assert run.returncode == 1
    assert said.startswith("error: 1 of 2 processes did not come within 2 s: process 1.")
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_partial_flags_are_a_message(tmp_path):
    run = start(tmp_path / "one", tmp_path / "run", devices=4, flags=["--process_id=0"])
    said = run.communicate()[1]
    assert run.returncode == 1
    assert said.startswith("error: got {'coordinator': None")
    assert os.listdir(tmp_path) == ["one"]
