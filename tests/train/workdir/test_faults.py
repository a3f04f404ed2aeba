"""What breaks in practice, broken on purpose: each ends as documented and loses nothing saved."""

import contextlib
import errno
import functools
import itertools
import json
import os
import re
import resource
import shutil
import threading
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from bias_clip.core.storage import NotSavedError
from bias_clip.data.sources import SOURCES
from bias_clip.data.sources.array_record import write_array_record
from bias_clip.evals.results import EvalResult
from bias_clip.report.run_page import write_report
from bias_clip.train import loop
from bias_clip.train.command import _is_ours
from bias_clip.train.evaluation import write_results
from bias_clip.train.guards import is_healthy, stop_sick_run
from bias_clip.train.hosts.watchdog import Watchdog, describe_hosts
from bias_clip.train.loop import train
from bias_clip.train.metrics import MetricWriter
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from bias_clip.train.state import TrainState
from bias_clip.train.workdir import checkpoint, initial_state
from bias_clip.train.workdir import folder as workdir
from bias_clip.train.workdir.checksum import checksums, text_checksum
from tests.train.tiny import Squares, share_compiled, tiny_config, use_squares


@pytest.fixture(autouse=True)
def _squares(monkeypatch):
    use_squares(monkeypatch)
    share_compiled(monkeypatch)


def without_evals(**changes):
    config = tiny_config(**changes)
    config.evals = dict()
    return config


def setup_on(devices, **mesh):
    config = without_evals()
    # Everything that can be split is, however small, so that shards are what is tested.
    config.sharding = ((r"kernel$|embedding$", "fsdp"), (".*", "replicate"))
    config.mesh = {"data": -1, "fsdp": 1, **mesh}
    made = make_mesh(**config.mesh, devices=devices)
    return make_setup(config, mesh=made, examples_per_epoch=40)


def equal(one, other):
    return all(
        np.array_equal(np.asarray(a), np.asarray(b))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def draw(key):
    params = {
        "img": {"kernel": jax.random.normal(key, (8, 6))},
        "bias": jax.random.normal(key, (3,)),
    }
    return TrainState(jax.numpy.int32(1), params, {"mu": jax.random.normal(key, (5,))}, None)


def abstract_on(mesh):
    """What `draw` makes, with the largest array over all devices and the others on each."""

    def leaf(x):
        spec = jax.sharding.PartitionSpec(("data", "fsdp") if x.ndim == 2 else None)
        spec = spec if x.ndim else jax.sharding.PartitionSpec()
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(leaf, jax.eval_shape(draw, jax.random.key(0)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Checkpoints of steps 2 and 4, of a state of a few arrays on eight devices."""
    folder = tmp_path_factory.mktemp("small") / "checkpoints"
    abstract = abstract_on(make_mesh())
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    states = {n: jax.device_put(draw(jax.random.key(n)), shardings) for n in (2, 4)}
    with checkpoint.open_checkpoints(folder, keep=3) as manager:
        for step, state in states.items():
            checkpoint.save(manager, step, state, {"iterator": {"step": step}, "seconds": 1.5})
        checkpoint.wait(manager)
    return folder, abstract, states


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped", "removed"])
def test_every_damaged_file_of_a_checkpoint_is_noticed_or_does_not_matter(small, tmp_path, how):
    folder, abstract, states = small
    noticed = []
    for number, name in enumerate(files_of(folder / "4")):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        damage(copy / "4" / name, how)
        with checkpoint.open_checkpoints(copy, keep=3) as manager:
            step = manager.latest_step()
            assert step == 4, f"{name} {how}: an older checkpoint was taken in silence"
            try:
                state, data = checkpoint.restore(manager, step, abstract)
            except ValueError as error:
                noticed.append((str(name), str(copy / "4"), str(error)))
                state, data = checkpoint.restore(manager, 2, abstract)
                assert equal(state, states[2])
            else:
                assert equal(state, states[4]), f"{name} {how}"
                assert data == {"iterator": {"step": 4}, "seconds": 1.5}, f"{name} {how}"
    for _, where, message in noticed:
        assert where in message
        assert "after step 2, the newest that is whole" in message
    assert any("data" in name for name, _, _ in noticed)
    assert any("state" in name for name, _, _ in noticed)


def change_data_of(folder, change):
    """Rewrites the small item of a checkpoint."""
    (path,) = (folder / "data").glob("metadata")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize("lost", ["crc", "arrays", "crc arrays"])
def test_a_checkpoint_that_lost_its_checksums_is_damaged(small, tmp_path, lost):
    folder, abstract, _ = small
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    change_data_of(
        copy / "4", lambda content: {k: v for k, v in content.items() if k not in lost.split()}
    )
    with (
        checkpoint.open_checkpoints(copy, keep=3) as manager,
        pytest.raises(ValueError, match=r"damaged.*after step 2, the newest that is whole"),
    ):
        checkpoint.restore(manager, 4, abstract)


def test_a_save_cut_short_at_any_file_leaves_the_one_before_in_use(small, tmp_path):
    folder, abstract, states = small
    files = files_of(folder / "4")
    for count in range(len(files)):
        copy = tmp_path / str(count)
        shutil.copytree(folder / "2", copy / "2")
        unfinished = copy / "4.orbax-checkpoint-tmp"
        for name in files[: count + 1]:
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "4" / name, unfinished / name)
        damage(unfinished / files[count], "truncated")
        with checkpoint.open_checkpoints(copy, keep=3, clean=True) as manager:
            assert manager.latest_step() == 2
            state, _ = checkpoint.restore(manager, 2, abstract)
        assert equal(state, states[2])
        _wait_until(lambda gone=unfinished: not gone.exists())  # orbax deletes in the background


def test_a_checkpoint_fits_on_other_devices_and_meshes(small):
    folder, _, states = small
    devices = jax.devices()
    meshes = [
        (devices, {}),
        (devices[:4], {}),
        (devices, {"data": 2, "fsdp": 4}),
        (devices[:1], {}),
    ]
    with checkpoint.open_checkpoints(folder, keep=3) as manager:
        for on, mesh in meshes:
            abstract = abstract_on(make_mesh(**mesh, devices=on))
            state, _ = checkpoint.restore(manager, 4, abstract)
            assert equal(state, states[4])
            shardings = jax.tree.map(lambda a, b: a.sharding == b.sharding, state, abstract)
            assert jax.tree.all(shardings)
            assert checksums(state.params) == checksums(states[4].params)


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_then_regrouped_devices(tmp_path, monkeypatch):
    """8 devices for 3 steps, 4 for 3 more, then 2 x 4: the run of 8 devices, but for rounding."""
    seen = []
    make = loop.to_global
    monkeypatch.setattr(
        loop, "to_global", lambda batch, mesh: seen.append(batch["text_id"]) or make(batch, mesh)
    )
    train(without_evals(), tmp_path / "whole", command="")
    whole = list(seen)
    seen.clear()
    meshes = [
        (jax.devices(), dict(data=8, fsdp=1), 3),
        (jax.devices()[:4], dict(data=4, fsdp=1), 6),
        (jax.devices(), dict(data=2, fsdp=4), 8),
    ]
    for devices, mesh, last in meshes:
        config = without_evals()
        config.mesh = mesh
        with monkeypatch.context() as patch:
            patch.setattr(loop, "make_mesh", lambda d=devices, **m: make_mesh(**m, devices=d))
            patch.setattr(loop, "asked_to_stop", lambda s, n=last: s == n and s < 8)
            try:
                train(config, tmp_path / "run", command="")
            except loop.Interrupted:
                assert last < 8
    np.testing.assert_array_equal(whole, seen)
    one, other = (parameters(tmp_path / name) for name in ("whole", "run"))
    for name, value in one.items():
        # A bias on the keys cancels in attention's softmax: its gradient is rounding, and Adam
        # makes steps of that.
        atol = 2e-3 if "['key']['bias']" in name else 2e-5
        np.testing.assert_allclose(value, other[name], atol=atol, rtol=1e-4, err_msg=name)


def parameters(run):
    setup = setup_on(jax.devices())
    with checkpoint.open_checkpoints(run / "checkpoints", keep=3) as manager:
        state, _ = checkpoint.restore(manager, manager.latest_step(), setup.abstract_state)
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.uint8, np.bool_])
def test_a_checksum_notices_each_changed_element_and_no_sharding(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (8, 6)).astype(dtype)
    rows = jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec("data"))
    expected = checksums({"x": jax.numpy.asarray(x)})
    assert checksums({"x": jax.device_put(x, rows)}) == expected
    for index in np.ndindex(x.shape):
        other = x.copy()
        other[index] = 1 - other[index].astype(np.int32)
        assert checksums({"x": jax.numpy.asarray(other)}) != expected
    assert checksums({"x": jax.numpy.asarray(x[::-1])}) != expected
    assert text_checksum({"a": (1, 2), "b": 0.1}) == text_checksum({"b": 0.1, "a": [1, 2]})


def test_some_checkpoints_stay_for_ever(small, tmp_path):
    _, _, states = small
    with checkpoint.open_checkpoints(tmp_path, keep=2, keep_every=4) as manager:
        for step in range(2, 15, 2):
            checkpoint.save(manager, step, states[2], {})
        checkpoint.wait(manager)
        assert list(manager.all_steps()) == [4, 8, 12, 14]


def test_keep_every_must_be_a_multiple_of_every(tmp_path):
    config = without_evals(checkpoint__every="3 steps")
    with config.unlocked():
        config.keep_every = "4 steps"
    with pytest.raises(ValueError, match=r"keep_every is '4 steps', 4 steps, and .*every is 3 st"):
        train(config, tmp_path, command="")


def test_a_full_disk_is_said_and_the_checkpoint_before_stays(small, tmp_path):
    folder, abstract, states = small
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    large = states[4]._replace(params=jax.random.normal(jax.random.key(0), (300, 300)))
    with checkpoint.open_checkpoints(copy, keep=3) as manager:
        with (
            little_room(),
            pytest.raises(NotSavedError, match=r"(?i)too large.*\[2, 4\] are whole") as caught,
        ):
            _save_now(manager, 6, large)
        assert "make room" in str(caught.value)
        assert manager.latest_step() == 4
        assert equal(checkpoint.restore(manager, 4, abstract)[0], states[4])
        _save_now(manager, 6, large)  # with room again
        assert manager.latest_step() == 6


def _save_now(manager, step, state):
    checkpoint.save(manager, step, state, {})
    checkpoint.wait(manager)


@contextlib.contextmanager
def little_room():
    """As good as a full disk for large files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_does_not_hide_why_a_sick_run_stops(small, tmp_path):
    _, _, states = small
    large = states[4]._replace(params=jax.random.normal(jax.random.key(0), (300, 300)))
    with (
        little_room(),
        pytest.raises(FloatingPointError, match=r"the loss is nan at step 6") as caught,
    ):
        stop_sick_run(tmp_path, large, 6, {"loss": float("nan")}, [2, 4])
    assert "the state could not be saved (a checkpoint could not be written" in str(caught.value)
    assert "checkpoints of steps [2, 4] are untouched" in str(caught.value)


def test_a_save_that_failed_when_the_run_ends_for_something_else_is_said(small, tmp_path):
    _, _, states = small
    large = states[4]._replace(params=jax.random.normal(jax.random.key(0), (300, 300)))
    manager = checkpoint.open_checkpoints(tmp_path / "checkpoints", keep=3)

    def save_and_fail():
        with checkpoint.closing(manager):
            checkpoint.save(manager, 6, large, {})
            raise RuntimeError("something else")

    with little_room(), pytest.raises(NotSavedError, match="make room") as caught:
        save_and_fail()
    assert _is_ours(caught.value)


@pytest.mark.parametrize(("count", "full"), [(1, "tensorboard"), (20, "metrics.jsonl")])
def test_metrics_that_do_not_fit_on_the_disk_are_said_and_those_before_stay(tmp_path, count, full):
    values = {f"train/{i}": i / 7 for i in range(count)}
    writer = MetricWriter(tmp_path, start_step=0)
    with little_room():
        with pytest.raises(NotSavedError, match=rf"{full} cannot be .*then start the") as caught:
            any(map(writer.write, range(1, 10_000), itertools.repeat(values)))
        with contextlib.suppress(NotSavedError):  # what is left over does not fit either
            writer.close()
    assert _is_ours(caught.value)
    writer = MetricWriter(tmp_path, start_step=2)
    writer.write(3, values)
    writer.close()
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list(lines) == [{"step": step, **values} for step in (1, 2, 3)]


def _write_evals(folder):
    write_results(folder / "evals", 8, {"color": EvalResult({"acc1": 1.0}, {"names": ["red"]})})


def _write_run(folder):
    state = types.SimpleNamespace(params={})
    workdir.write_run(folder, types.SimpleNamespace(abstract_state=state, total_steps=8), "line")


def _cut_metrics(folder):
    path = folder / "metrics.jsonl"
    if not path.exists():
        path.write_text('{"step": 1}\n{"step": 2}\n')
    MetricWriter(folder, start_step=1).close()


@pytest.mark.parametrize("write", [_write_evals, _write_run, _cut_metrics, write_report])
def test_what_a_file_held_before_the_disk_was_full_stays(tmp_path, monkeypatch, write):
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path)

    def contents():
        found = [path for path in tmp_path.rglob("*.[hj]*") if path.suffix != ".partial"]
        return {path: path.read_text() for path in found}

    def full(path, text, **_):
        path.write_bytes(text.encode()[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    before = contents()
    assert len(before) >= 2
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NotSavedError, match=r"cannot be written: .*No space left") as caught:
        write(tmp_path)
    assert _is_ours(caught.value)
    assert contents() == before


def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(
    tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(ValueError, match=r"0\.00 GB free, but 3 more checkpoints"):
        train(without_evals(), tmp_path, command="")
    assert not any((tmp_path / "checkpoints").iterdir())


def test_a_continued_run_may_change_where_it_computes_but_not_what(tmp_path):
    config = without_evals()
    workdir.open_workdir(tmp_path, config)
    config.mesh = dict(data=2, fsdp=4)
    config.checkpoint.keep = 5
    workdir.open_workdir(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text())["mesh"]["fsdp"] == 4
    config.batch_size = 32
    with pytest.raises(ValueError, match="batch_size: 16 there, 32 now"):
        workdir.open_workdir(tmp_path, config)


OTHER = {
    "mesh": dict(data=2, fsdp=4),
    "sharding": ((".*", "replicate"),),
    "checkpoint": dict(every="1 steps", keep=7),
    "keep_every": "2 steps",
    "stall_seconds": 5.0,
    "guards.max_consecutive": 7,
    "sinks": ("wandb",),
    "data.num_threads": 7,
    "data.num_workers": 7,
    "data.prefetch": 7,
}


@pytest.mark.parametrize("name", workdir.MAY_CHANGE)
def test_what_may_change_in_a_workdir_is_on_the_page_and_may(tmp_path, name):
    config = without_evals()
    workdir.open_workdir(tmp_path, config)
    *parts, last = name.split(".")
    section = functools.reduce(getattr, parts, config)
    with config.unlocked():
        setattr(section, last, OTHER[name])
    workdir.open_workdir(tmp_path, config)
    page = " ".join((Path(__file__).parents[3] / "docs" / "faults.md").read_text().split())
    (sentence,) = re.findall(r"may change within a workdir: (.*?)\. All others", page)
    assert f"`{name}`" in sentence
    assert set(OTHER) == set(workdir.MAY_CHANGE)


class Fresh:
    """A manager of no checkpoints."""

    def latest_step(self):
        return None


def test_parameters_of_another_run_are_the_start(small, capsys):
    folder, abstract, states = small
    setup = types.SimpleNamespace(abstract_state=abstract, init=draw)
    arguments = dict(path=str(folder), step=2, only=("^img/",))
    state, step, _ = initial_state.first_state(setup, Fresh(), None, seed=9, init_from=arguments)
    drawn = draw(jax.random.key(9))
    assert step == 0
    assert equal(state.opt_state, drawn.opt_state)
    assert equal(state.params["img"], states[2].params["img"])
    assert equal(state.params["bias"], drawn.params["bias"])
    assert "1 of 2 parameters come from its 'params'; 1 left out" in capsys.readouterr().err
    arguments = dict(path=str(folder / "4"), skip=("^img/",))
    state, _, _ = initial_state.first_state(setup, Fresh(), None, seed=9, init_from=arguments)
    assert equal(state.params["img"], drawn.params["img"])
    assert equal(state.params["bias"], states[4].params["bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(only=("nothing",)), "'nothing' is found in no parameter"),
        (dict(step=3), r"no checkpoint 3; it has \[2, 4\]"),
        (dict(path="/nowhere"), "no folder /nowhere"),
        (dict(skip=(".",)), "leave no parameter"),
    ],
)
def test_init_from_of_what_is_not_there_is_an_error(small, change, message):
    folder, abstract, _ = small
    with pytest.raises(ValueError, match=message):
        initial_state.load_params(abstract.params, **{"path": str(folder), **change})


def test_init_from_of_other_shapes_names_them(small):
    folder, abstract, _ = small
    wider = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*x.shape[:-1], 7), x.dtype), abstract.params
    )
    with pytest.raises(ValueError, match=r"another shape; .*bias: saved \(3,\), this model \(7,\)"):
        initial_state.load_params(wider, path=str(folder))


@pytest.mark.parametrize(
    ("metrics", "healthy"),
    [
        (dict(loss=1.0), True),
        (dict(loss=np.nan), False),
        (dict(loss=np.inf, skipped_in_row=1), True),
        (dict(loss=np.nan, skipped_in_row=3), False),
        (dict(loss=1.0, skipped_in_row=3), False),
        (dict(loss=np.nan, skipped_in_row=0), False),
    ],
)
def test_a_skipped_step_is_no_reason_to_stop_but_many_in_a_row_are(metrics, healthy):
    assert is_healthy(metrics, max_consecutive=3) == healthy


class Poisoned(Squares):
    """Squares whose images cannot be decoded, or have no caption, as `spoil` says."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def __getitem__(self, i):
        return self.spoil(i, super().__getitem__(i))


def _broken_image(i, record):
    return {**record, "image": b"\x89PNG, but no more"} if i == 7 else record


def _no_caption(i, record):
    return {**record, "captions": ()} if i == 7 else record


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [_broken_image, _no_caption])
def test_a_bad_record_is_replaced_logged_and_named_at_the_end(tmp_path, monkeypatch, capsys, spoil):
    monkeypatch.setitem(SOURCES, "squares", lambda: Poisoned(spoil))
    train(without_evals(data__max_bad_share=0.1), tmp_path, command="")
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    counts = [line["replaced_records"] for line in lines if "replaced_records" in line]
    assert counts[-1] > 0
    assert counts == sorted(counts)
    assert (
        f"{counts[-1]} of 128 examples stood in for bad records: square/7"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_share_of_bad_records_stops_the_run_and_what_was_saved_stays(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "squares", lambda: Poisoned(_broken_image))
    train(without_evals(data__max_bad_share=0.5, checkpoint__every="2 steps"), tmp_path, command="")
    bad = lambda i, record: {**record, "image": b""}  # noqa: E731
    monkeypatch.setitem(SOURCES, "squares", lambda: Poisoned(bad))
    with pytest.raises(ValueError, match=r"bad|none of"):
        train(without_evals(data__max_bad_share=0.5), tmp_path / "all_bad", command="")
    assert parameters(tmp_path)


@pytest.mark.slow
def test_steps_that_are_all_skipped_stop_the_run_with_the_values(tmp_path, monkeypatch):
    """Gradients that are NaN from step 4 on."""
    make = loop.make_setup

    def poisoned(*arguments, **named):
        setup = make(*arguments, **named)
        calls = []

        def step(state, batch):
            calls.append(0)
            image = batch["image"] * (np.nan if len(calls) > 3 else 1.0)
            return setup.train_step(state, {**batch, "image": image})

        return setup._replace(train_step=step)

    monkeypatch.setattr(loop, "make_setup", poisoned)
    config = without_evals(guards__max_consecutive=3, checkpoint__every="1 steps")
    with pytest.raises(FloatingPointError, match=r"3 steps in a row were skipped.* at step 6; "):
        train(config, tmp_path, command="")
    assert (tmp_path / "nonfinite" / "6").is_dir()
    assert (tmp_path / "checkpoints" / "5").is_dir()


def test_a_stall_is_written_down_with_where_it_is(tmp_path, capfd):
    dog = Watchdog(tmp_path, seconds=0.2, step=11)
    dog.doing("input")
    stacks = tmp_path / "stacks_0.txt"
    _wait_until(lambda: stacks.exists() and stacks.stat().st_size)
    dog.close()
    text = stacks.read_text()
    assert "after step 11 the loop is in 'input'" in text
    assert "_wait_until" in text  # the stack of the thread that is stuck
    assert "after step 11" in capfd.readouterr().err


def _wait_until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_that_moves_is_left_alone(tmp_path):
    dog = Watchdog(tmp_path, seconds=2.0, step=0)
    for step in range(25):
        dog.done(step)
        time.sleep(0.1)
    dog.close()
    assert not list(tmp_path.iterdir())
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_silent_host_is_named(tmp_path):
    now = time.time()
    for i, (age, part) in enumerate([(1, "step"), (500, "step"), (2, "input")]):
        sign = {"time": now - age, "step": 7, "part": part}
        (tmp_path / f"heartbeat_{i}").write_text(json.dumps(sign))
    first, second, third, fourth = describe_hosts(tmp_path, 4).splitlines()
    assert "silent" not in first
    assert "silent" in second
    assert "'input'" in third
    assert "process 3: has given no sign" in fourth


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "squares.array_record"
    write_array_record(Squares(), path)
    return path


def train_on(records, folder, **changes):
    config = without_evals(**changes)
    config.data.source = dict(name="array_record", path=str(records))
    train(config, folder, command="")


@pytest.mark.slow
def test_a_flipped_bit_in_a_record_costs_that_record(records, tmp_path):
    damaged = tmp_path / records.name
    content = bytearray(records.read_bytes())
    content[content.index(b"square/7")] ^= 0x10
    damaged.write_bytes(content)
    train_on(damaged, tmp_path / "run", data__max_bad_share=0.1)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    counts = [line["replaced_records"] for line in lines if "replaced_records" in line]
    assert counts[-1] in (3, 4)  # 128 examples of 40 records


def test_truncated_records_are_refused_by_name_before_the_first_step(records, tmp_path):
    damaged = tmp_path / records.name
    damaged.write_bytes(records.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cannot open as ArrayRecord: .*squares\.array_record"):
        train_on(damaged, tmp_path / "run")
    assert not (tmp_path / "run").exists()
