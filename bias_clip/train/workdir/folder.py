"""The folder of a run: is it this run's, can it be written, is there room?"""

import contextlib
import datetime
import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections

import bias_clip
from bias_clip.core.json_object import read_object
from bias_clip.core.plans import check_same_plan
from bias_clip.core.storage import NotSavedError, in_bucket, storage_errors, write_whole
from bias_clip.train.config_io import to_plain
from bias_clip.train.hosts.distributed import is_main
from bias_clip.train.setup import Setup
from bias_clip.train.workdir.commit import commit_of
from bias_clip.train.workdir.lock import take

_RESTORE = "restore it from a copy; if the run is to continue with this --config, delete it"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Where and how a run computes, not what: these may change when it is continued.
MAY_CHANGE = (
    "mesh",
    "sharding",
    "checkpoint",
    "keep_every",
    "guards.max_consecutive",
    "stall_seconds",
    "sinks",
    "data.num_threads",
    "data.num_workers",
    "data.prefetch",
)


def open_workdir(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the folder if needed and writes config.json, or compares with the one that is there.

    Raises:
      ValueError: if it cannot be written, or holds a run of another config; keys of `MAY_CHANGE`
        may differ.
    """
    plain, path = to_plain(config), workdir / "config.json"
    with _as_value_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        found = read_object(path, advice=_RESTORE) if path.exists() else plain
    check_same_plan(
        f"{workdir} holds a run of another config",
        found,
        plain,
        advice="Give another --workdir, or the config it was started with to continue it; only "
        f"{', '.join(MAY_CHANGE)} may change.",
        may_change=MAY_CHANGE,
    )
    if is_main():
        with _as_value_error(workdir):
            write_whole(path, json.dumps(plain, indent=2))  # another host may be reading


@contextlib.contextmanager
def hold_workdir(workdir: Path) -> Iterator[Callable[[], None]]:
    """Holds the lock of the folder, which is made if needed; one process of a run does.

    Yields:
      A function to call before writing: raises NotSavedError if another run has taken it over.

    Raises:
      ValueError: another run is at work there, see `lock.take`; or it cannot be written.
    """
    if not is_main():
        yield lambda: None
        return
    with _as_value_error(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        lock = take(workdir)
    with contextlib.closing(lock):
        yield lock.check


def check_room(workdir: Path, state: Any, *, keep: int, there: int) -> None:
    """Raises ValueError unless the disk has room for the checkpoints that are still to come.

    One more than `keep` are there for a moment, since the oldest goes when the newest is whole. A
    bucket always has room.

    Args:
      workdir: of the run.
      state: arrays or ShapeDtypeStructs; all hosts together write each element once.
      keep: how many of the newest stay.
      there: how many are on the disk already.
    """
    if in_bucket(workdir):
        return
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    count = max(keep + 1 - there, 1)
    free = shutil.disk_usage(workdir).free
    if free < count * size:
        raise ValueError(
            f"{workdir} has {free / 1e9:.2f} GB free, but {count} more checkpoints of "
            f"{size / 1e9:.2f} GB are to come; make room, give another --workdir, or set a smaller "
            "checkpoint.keep."
        )


def write_run(workdir: Path, setup: Setup, command: str) -> None:
    """Writes run.json: the command, commit, versions, devices and size; one process does.

    The commit is None where the package is not in a checkout.

    Raises:
      NotSavedError: it cannot be written.
    """
    if not is_main():
        return
    params = jax.tree.leaves(setup.abstract_state.params)
    device = jax.devices()[0]
    record = {
        "command": command,
        "commit": commit_of(Path(bias_clip.__file__).parent.parent),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"bias_clip": bias_clip.__version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind or device.platform}",
        "parameters": sum(math.prod(leaf.shape) for leaf in params),
        "total_steps": setup.total_steps,
    }
    write_whole(workdir / "run.json", json.dumps(record, indent=2))


def write_start(workdir: Path, origin: Mapping[str, Any]) -> None:
    """Writes start.json: the checkpoint whose parameters the run began with; one process does.

    A run that continues does not write it: its parameters then come from its own checkpoint.

    Raises:
      NotSavedError: it cannot be written.
    """
    if is_main():
        write_whole(workdir / "start.json", json.dumps(origin, indent=2))


@contextlib.contextmanager
def _as_value_error(workdir: Path) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise  # ours: of a bucket every class of errors is one of storage
    except storage_errors(workdir, NotSavedError) as error:
        raise ValueError(f"workdir {workdir} cannot be written: {error}.") from error
