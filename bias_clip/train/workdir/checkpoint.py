"""Saving a run and taking it up again: the state and the place in the data, together."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from bias_clip.core.storage import NotSavedError, absolute, in_bucket, storage_errors
from bias_clip.train.sharding import path_name
from bias_clip.train.state import TrainState
from bias_clip.train.workdir.checksum import checksums, text_checksum

FORMAT = 2  # of the small item: 2 has the step, and sums that notice every change of two words

Shapes = Mapping[str, tuple[int, ...]]


class _Saved(NamedTuple):
    """The small item of a checkpoint."""

    data: dict[str, Any]  # of the caller
    shapes: Shapes  # of the arrays in the state, by path
    sums: Mapping[str, str]  # their checksums


def open_checkpoints(
    directory: Path, *, keep: int, keep_every: int | None = None, clean: bool = False
) -> ocp.CheckpointManager:
    """Returns orbax's manager of the checkpoints under `directory`; it writes in the background.

    A checkpoint appears under its final name only when it is whole, so a run that is killed while
    it saves leaves the previous ones usable.

    Args:
      directory: is made if it is not there.
      keep: how many of the newest stay on disk.
      keep_every: checkpoints of steps that this divides stay for ever; None: no others.
      clean: whether to delete what saves that were cut short have left; only the run that writes
        here may, and not while it saves.

    Raises:
      ValueError: `keep` is not at least 1.
    """
    check_keep(keep)
    policies = ocp.checkpoint_managers
    kept: list[Any] = [policies.LatestN(keep)]
    if keep_every is not None:
        kept.append(policies.EveryNSteps(keep_every))
    return ocp.CheckpointManager(
        absolute(directory),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=clean,
        ),
    )


def check_keep(keep: int) -> None:
    """Raises ValueError unless at least one checkpoint stays: with none, a run cannot continue."""
    if keep < 1:
        raise ValueError(f"checkpoint.keep is {keep}; expected at least 1.")


def save(
    manager: ocp.CheckpointManager, step: int, state: TrainState, data_state: dict[str, Any]
) -> None:
    """Starts saving `state` and `data_state` under `step`; a step that is there already stays.

    Waits for the save before this one. A checksum of every array, and one of all the rest with the
    step, go with it; `restore` compares. So folder, state and place in the data belong together.

    Raises:
      NotSavedError: if it, or the save before it, failed.
    """
    # A finished run that is started again saves nothing new.
    if step in manager.all_steps():
        return
    fields = _saved_fields(state)
    # Before the save starts: the next step will take the state's memory.
    shapes, sums = _shapes(fields), checksums(fields)
    arrays = {name: {"shape": list(shapes[name]), "sum": sums[name]} for name in sums}
    content: dict[str, Any] = {"format": FORMAT, "step": step, "data": data_state, "arrays": arrays}
    content["crc"] = text_checksum(content)
    with _writing(manager):
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(fields), data=ocp.args.JsonSave(content)
            ),
        )


def wait(manager: ocp.CheckpointManager) -> None:
    """Returns when what `save` started is on disk; raises NotSavedError if it failed."""
    with _writing(manager):
        manager.wait_until_finished()


def check(manager: ocp.CheckpointManager) -> None:
    """Raises NotSavedError if a save in the background has failed; waits for nothing."""
    with _writing(manager):
        manager.check_for_errors()


@contextlib.contextmanager
def closing(manager: ocp.CheckpointManager) -> Iterator[ocp.CheckpointManager]:
    """Closes the manager in the end; raises NotSavedError if a save in the background has failed."""
    try:
        yield manager
    finally:
        with _writing(manager):
            manager.close()


def restore(
    manager: ocp.CheckpointManager, step: int, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state and the data state saved under `step`.

    Args:
      manager: from `open_checkpoints`.
      step: one of the manager's steps.
      abstract_state: ShapeDtypeStructs with the shardings that the arrays shall have; they need not
        be those they were saved with, nor on as many devices.

    Raises:
      ValueError: if the checkpoint is of another model or optimiser, or is not whole: a file of it
        is missing, cannot be read, or gives other values than were saved; or if it was saved under
        another step, and copied or renamed since. Never takes another
        checkpoint instead; the message names the newest whole one before it.
    """
    # None has no arrays, so fields that are None are neither saved nor expected.
    expected = _saved_fields(abstract_state)
    with _reading(manager, step, abstract_state):
        saved = _read_saved(manager, step)
    # Shapes before arrays: orbax would fail in its own words, and late.
    _check_same(saved.shapes, _shapes(expected), manager.directory / str(step))
    with _reading(manager, step, abstract_state):
        fields = _read_state(manager, step, expected, saved.sums)
    return abstract_state._replace(**fields), saved.data


def saved_shapes(manager: ocp.CheckpointManager, step: int) -> Shapes:
    """Returns the shapes of all arrays of a checkpoint, by path, "params/img/kernel".

    Raises:
      ValueError: if it cannot be read.
    """
    with _reading(manager, step, None):
        return _read_saved(manager, step).shapes


def restore_part(manager: ocp.CheckpointManager, step: int, abstract: Any) -> Any:
    """Returns the arrays of a checkpoint that are in `abstract`, and reads no others.

    Args:
      manager: from `open_checkpoints`.
      step: one of the manager's steps.
      abstract: nested dicts, such as {"params": {...}}, of ShapeDtypeStructs with shardings; each
        is in the checkpoint, in this shape.

    Raises:
      ValueError: if it cannot be read, or gives other values than were saved.
    """
    args = ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        # Arrays that `abstract` lacks, such as the optimiser's state, are not read.
        partial_restore=True,
    )
    with (
        _reading(manager, step, None),
        ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer,
    ):
        part = checkpointer.restore(manager.directory / str(step) / "state", args=args)
        saved = _read_saved(manager, step)
        _check_sums(part, saved.sums)
    return part


def _read_saved(manager: ocp.CheckpointManager, step: int) -> _Saved:
    content = manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
    crc = content.pop("crc")
    if text_checksum(content) != crc:
        raise ValueError("the data item is not what was saved")
    if content["format"] != FORMAT:
        raise ValueError(f"it is of format {content['format']}, this version reads {FORMAT}")
    if content["step"] != step:
        raise ValueError(f"it was saved as step {content['step']}, and lies in the place of {step}")
    arrays = content["arrays"]
    shapes = {name: tuple(array["shape"]) for name, array in arrays.items()}
    return _Saved(content["data"], shapes, {name: a["sum"] for name, a in arrays.items()})


def _read_state(
    manager: ocp.CheckpointManager, step: int, expected: Any, sums: Mapping[str, str]
) -> dict[str, Any]:
    args = ocp.args.Composite(state=ocp.args.StandardRestore(expected))
    fields = manager.restore(step, args=args)["state"]
    _check_sums(fields, sums)
    return fields


def _check_sums(tree: Any, sums: Mapping[str, str]) -> None:
    wrong = [name for name, value in checksums(tree).items() if value != sums[name]]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays are not what was saved, such as {wrong[0]!r}")


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    # Of a disk, too, orbax and tensorstore raise all three.
    except storage_errors(manager.directory, ValueError, RuntimeError) as error:
        advice = (
            "Once it can be" if in_bucket(manager.directory) else "If the disk is full, make room"
        )
        raise NotSavedError(
            f"a checkpoint could not be written under {manager.directory}: {_brief(error)}. "
            f"Checkpoints of steps {list(manager.all_steps())} are whole. {advice}; then start the "
            "same line again to continue after the newest of them."
        ) from error


@contextlib.contextmanager
def _reading(
    manager: ocp.CheckpointManager, step: int, abstract_state: TrainState | None
) -> Iterator[None]:
    try:
        yield
    # Out of memory or a lost device would call every checkpoint damaged.
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # says nothing about the files
    except Exception as error:  # a broken file shows in as many ways as there are layers to read it
        where, advice = manager.directory / str(step), "Put a good copy in its place."
        if abstract_state is not None:
            whole = _newest_whole(manager, step, abstract_state)
            advice = (
                "No earlier one is whole: put a good copy in its place, or start in another workdir."
                if whole is None
                else f"Delete {where} to continue after step {whole}, the newest that is whole."
            )
        raise ValueError(
            f"the checkpoint {where} is damaged or incomplete ({_brief(error)}). {advice}"
        ) from error


def _newest_whole(
    manager: ocp.CheckpointManager, before: int, abstract_state: TrainState
) -> int | None:
    expected = _saved_fields(abstract_state)
    for step in sorted((s for s in manager.all_steps() if s < before), reverse=True):
        with contextlib.suppress(Exception):  # whatever is wrong with it: not whole, look further
            _read_state(manager, step, expected, _read_saved(manager, step).sums)
            return step
    return None


def _brief(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"a file is no JSON: {error}"
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:500]}"


def _saved_fields(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if value is not None}


def _check_same(saved: Shapes, expected: Shapes, where: Any) -> None:
    lines = [
        # Both ways: what only one of them has differs too.
        f"  {path}: saved {saved.get(path, 'nothing')}, this config makes {expected.get(path, 'nothing')}"
        for path in sorted(saved.keys() | expected.keys())
        if saved.get(path) != expected.get(path)
    ]
    if lines:
        more = f"\n  and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ValueError(
            f"the checkpoint {where} is of another model or optimiser ({len(lines)} arrays "
            "differ); use the config it was made with, or another workdir:\n"
            + "\n".join(lines[:8])
            + more
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    # Shapes also of what has no data yet, ShapeDtypeStructs.
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}
