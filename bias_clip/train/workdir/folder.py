"""The folder of a run: is it this run's, can it be written, is there room?"""

import datetime
import json
import math
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import ml_collections

from bias_clip import __version__
from bias_clip.core.storage import NotSavedError, in_bucket, storage_errors, write_whole
from bias_clip.train.config import to_plain
from bias_clip.train.hosts.distributed import is_main
from bias_clip.train.setup import Setup

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Where and how a run computes, not what: these may change when it is continued.
MAY_CHANGE = (
    "mesh",
    "sharding",
    "checkpoint",
    "keep_every",
    "guards.max_consecutive",
    "stall_seconds",
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
    plain = to_plain(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "config.json"
        found = json.loads(path.read_text()) if path.exists() else plain
        differ = _differences(plain, found)
        if not differ and is_main():
            write_whole(path, json.dumps(plain, indent=2))  # another host may be reading
    except storage_errors(workdir, NotSavedError) as error:
        raise ValueError(f"workdir {workdir} cannot be written: {error}.") from error
    if differ:
        raise ValueError(
            f"{workdir} holds a run of another config ({'; '.join(differ)}). Give another --workdir, "
            f"or the config it was started with to continue it; only {', '.join(MAY_CHANGE)} may "
            "change."
        )


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
    """Writes run.json: the command, versions, devices and size of the run; one process does.

    Raises:
      NotSavedError: it cannot be written.
    """
    if not is_main():
        return
    params = jax.tree.leaves(setup.abstract_state.params)
    device = jax.devices()[0]
    record = {
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"bias_clip": __version__, "python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "devices": f"{jax.device_count()} x {device.device_kind or device.platform}",
        "parameters": sum(math.prod(leaf.shape) for leaf in params),
        "total_steps": setup.total_steps,
    }
    write_whole(workdir / "run.json", json.dumps(record, indent=2))


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    flat_now, flat_then = _flat(now), _flat(then)
    return [
        f"{key}: {flat_then.get(key)!r} there, {flat_now.get(key)!r} now"
        for key in {**flat_now, **flat_then}
        if flat_now.get(key) != flat_then.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested dict as {"a.b": value}; an empty dict is a value."""
    if not isinstance(value, Mapping) or not value:
        return {name: value}
    return {
        key: leaf
        for part, inner in value.items()
        for key, leaf in _flat(inner, f"{name}.{part}" if name else part).items()
    }
