"""The state that a run starts from: its own checkpoint, another's parameters, or a draw."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from bias_clip.core.storage import run_folder
from bias_clip.train.hosts.distributed import is_main
from bias_clip.train.hosts.log import log
from bias_clip.train.optim import init_ema
from bias_clip.train.setup import Setup
from bias_clip.train.sharding import path_name
from bias_clip.train.state import TrainState
from bias_clip.train.workdir import checkpoint
from bias_clip.train.workdir.chosen import check_shapes, select
from bias_clip.train.workdir.published_start import is_published, load_published


def first_state(
    setup: Setup,
    manager: Any,
    iterator: Any,
    *,
    seed: int,
    init_from: Mapping[str, Any] | None,
    config: Any = None,
    on_start: Callable[[dict[str, Any]], None] = lambda origin: None,
) -> tuple[TrainState, int, float]:
    """Returns (state, the steps it has made, the seconds they took); moves `iterator` there.

    Args:
      setup: of the run.
      manager: of the run's own checkpoints; the newest of them comes before all else.
      iterator: of the training data.
      seed: of the draw.
      init_from: arguments of `load_params`, or None.
      config: of the run; a published checkpoint is compared with it.
      on_start: gets where the parameters come from, when a run begins with those of a checkpoint.

    Raises:
      ValueError: if the checkpoint cannot be used, see `checkpoint.restore`; as `load_params`.
    """
    # The run's own checkpoint goes before init_from, which only says how it began.
    step = manager.latest_step()
    if step is not None:
        state, data = checkpoint.restore(manager, step, setup.abstract_state)
        # State and data must be at the same step: else examples would be seen twice, or never.
        places = {int(jax.device_get(state.step)), data["iterator"]["step"]}
        if places != {step}:
            raise ValueError(
                f"the checkpoint {manager.directory / str(step)} holds a state and a place in the data "
                f"after steps {sorted(places)}, expected {step}: delete it, or put a good copy in its place."
            )
        iterator.set_state(data["iterator"])
        return state, step, data["seconds"]
    state = setup.init(jax.random.key(seed))
    if init_from is None:
        return state, 0, 0.0
    if is_published(init_from["path"]):
        loaded, report, origin = load_published(setup.abstract_state.params, config, **init_from)
    else:
        loaded, report = load_params(setup.abstract_state.params, **init_from)
        origin = {"path": str(init_from["path"]), "family": "run", "said": [report]}
    # Before any step: if the process dies here, the next start begins in the same way.
    on_start(origin)
    if is_main():
        log(report)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: loaded.get(path_name(path), x), state.params
    )
    # The average starts from what was loaded, not from what was drawn.
    ema = None if state.ema is None else init_ema(params)
    return state._replace(params=params, ema=ema), 0, 0.0


def load_params(
    abstract_params: Any,
    *,
    path: str,
    step: int | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    image: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> tuple[dict[str, jax.Array], str]:
    """Reads parameters of a run's checkpoint, averaged ones where it has them.

    A published checkpoint has the same arguments, see `load_published`.

    Args:
      abstract_params: of the model to fill, with the shardings that the arrays shall have.
      path: a run's workdir, the folder of its checkpoints, or one checkpoint in it; a bucket's, too.
      step: which checkpoint; None: the newest.
      only: regexes; if there are any, a parameter is loaded if one is found in its path.
      skip: regexes; a parameter is not loaded if one is found in its path.
      image, text, tokenizer: of published checkpoints only.

    Returns:
      ({path: array}, a text that says what matched and what did not). A parameter that the
      checkpoint lacks is not among them.

    Raises:
      ValueError: if there is no such checkpoint, it is damaged, a regex is found in no parameter,
        nothing matches, or shapes differ; names them.
    """
    if image or text or tokenizer:
        raise ValueError(
            f"init_from: {path} is not a published checkpoint; expected no image, text or tokenizer."
        )
    leaves = jax.tree_util.tree_leaves_with_path(abstract_params)
    shapes = {path_name(where): tuple(leaf.shape) for where, leaf in leaves}
    wanted = select(list(shapes), only, skip)
    directory, step = _find(run_folder(path), step)
    with checkpoint.open_checkpoints(directory, keep=1) as manager:
        there = list(manager.all_steps())
        step = manager.latest_step() if step is None else step
        if step is None or step not in there:
            raise ValueError(f"init_from: {directory} has no checkpoint {step}; it has {there}.")
        # Shapes first: a model that does not fit is refused before any array is read.
        saved = checkpoint.saved_shapes(manager, step)
        part = "ema" if any(name.startswith("ema/") for name in saved) else "params"
        found = [name for name in wanted if f"{part}/{name}" in saved]
        check_shapes({n: shapes[n] for n in found}, {n: saved[f"{part}/{n}"] for n in found})
        if not found:
            raise ValueError(
                f"init_from: none of {len(wanted)} parameters, such as {wanted[0]!r}, is in "
                f"{directory / str(step)}, which has {sorted(saved)[:5]}."
            )
        abstract = {part: _prune(abstract_params, set(found).__contains__)}
        arrays = checkpoint.restore_part(manager, step, abstract)[part]
    loaded = {path_name(w): x for w, x in jax.tree_util.tree_leaves_with_path(arrays)}
    unused = [n for n in saved if n.startswith(f"{part}/") and n[len(part) + 1 :] not in shapes]
    missing = [name for name in wanted if name not in loaded]
    return loaded, (
        f"init_from {directory / str(step)}: {len(loaded)} of {len(shapes)} parameters come from "
        f"its {part!r}; {len(shapes) - len(wanted)} left out by only and skip; not in it "
        f"{missing}; in it, but not in this model {unused}."
    )


def _find(path: Path, step: int | None) -> tuple[Path, int | None]:
    if not path.is_dir():
        raise ValueError(f"init_from: there is no folder {path}.")
    if path.name.isdigit() and (path / "state").is_dir():
        if step not in (None, int(path.name)):
            raise ValueError(f"init_from: {path} is not the checkpoint of step {step}.")
        return path.parent, int(path.name)
    inner = path / "checkpoints"
    return (inner if inner.is_dir() else path), step


def _prune(tree: Any, keep: Callable[[str], bool], where: str = "") -> dict:
    """The nested dict with those leaves whose path is kept."""
    pruned = {}
    for key, value in tree.items():
        name = f"{where}/{key}" if where else str(key)
        if isinstance(value, Mapping):
            inner = _prune(value, keep, name)
            if inner:
                pruned[key] = inner
        elif keep(name):
            pruned[key] = value
    return pruned
