"""Saving a run and taking it up again: the state and the place in the data, together."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from bias_clip.train.sharding import path_name
from bias_clip.train.state import TrainState


def open_checkpoints(directory: Path, *, keep: int) -> ocp.CheckpointManager:
    """Returns orbax's manager of the checkpoints under `directory`; it writes in the background.

    A checkpoint appears under its final name only when it is whole, so a run that is killed while
    it saves leaves the previous ones usable.

    Args:
      directory: is made if it is not there.
      keep: how many of the newest stay on disk.
    """
    return ocp.CheckpointManager(
        directory.resolve(),
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        },
        options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True),
    )


def save(
    manager: ocp.CheckpointManager, step: int, state: TrainState, data_state: dict[str, Any]
) -> None:
    """Starts saving `state` and `data_state` under `step`; a step that is there already stays."""
    if step in manager.all_steps():
        return
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(_saved_fields(state)), data=ocp.args.JsonSave(data_state)
        ),
    )


def restore(
    manager: ocp.CheckpointManager, step: int, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state and the data state saved under `step`.

    Args:
      manager: from `open_checkpoints`.
      step: one of the manager's steps.
      abstract_state: ShapeDtypeStructs with the shardings that the arrays shall have; they need not
        be those they were saved with.

    Raises:
      ValueError: if the checkpoint is of another model or optimiser; lists what differs.
    """
    expected = _saved_fields(abstract_state)
    _check_same(manager.item_metadata(step)["state"], expected, manager.directory / str(step))
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(expected), data=ocp.args.JsonRestore()
        ),
    )
    fields = restored["state"]
    return abstract_state._replace(**fields), restored["data"]


def _saved_fields(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if value is not None}


def _check_same(saved: Any, expected: Any, where: Path) -> None:
    saved, expected = _shapes(saved), _shapes(expected)
    lines = [
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
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {path_name(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}
