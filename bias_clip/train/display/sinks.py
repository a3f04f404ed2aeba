"""Trackers that receive the metrics besides TensorBoard, if the config lists them: `config.sinks`."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.train.hosts.distributed import is_main

PROJECT = "bias_clip"  # the name under which a tracker groups the runs


class Sink(NamedTuple):
    """An open run of a tracker."""

    write: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]


def open_sinks(names: Sequence[str], *, workdir: Path, config: Mapping[str, Any]) -> list[Sink]:
    """Opens the trackers, on one host only. Their packages are imported nowhere else.

    Args:
      names: of `SINKS`.
      workdir: of the run; its last part names the run, so that a continued run keeps its name.
      config: from `to_plain`, for the tracker to show.

    Raises:
      ValueError: the package of a tracker is not installed; says how to install it.
    """
    if not is_main():
        return []
    return [SINKS[name](_package(name), workdir, config) for name in names]


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f"config.sinks has {name!r}, whose package is not installed: pip install "
            f"'bias_clip[{name}]', or leave it out."
        ) from error


def _open_wandb(wandb: Any, workdir: Path, config: Mapping[str, Any]) -> Sink:
    # With the same id a continued run appends its points to the earlier ones.
    name = workdir.name
    run = wandb.init(project=PROJECT, name=name, id=name, resume="allow", config=dict(config))
    return Sink(lambda step, values: run.log(dict(values), step=step), run.finish)


def _open_trackio(trackio: Any, workdir: Path, config: Mapping[str, Any]) -> Sink:
    trackio.init(project=PROJECT, name=workdir.name, resume="allow", config=dict(config))
    return Sink(lambda step, values: trackio.log(dict(values), step=step), trackio.finish)


SINKS: dict[str, Callable[[Any, Path, Mapping[str, Any]], Sink]] = {
    "trackio": _open_trackio,
    "wandb": _open_wandb,
}
"""Name of a tracker, which is that of its package, to the function that opens it."""
