"""A run that has been trained, taken up for its embeddings alone."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bias_clip.core.storage import run_folder
from bias_clip.data.image import ImageFn, make_image_fn
from bias_clip.data.sources import make_source
from bias_clip.data.text import TextFn, make_text_fn
from bias_clip.evals.concat import Stage
from bias_clip.models.two_towers import Model
from bias_clip.train.config import from_plain
from bias_clip.train.setup import has_kernel, make_setup
from bias_clip.train.sharding import (
    batch_sharding,
    check_batch_size,
    gather,
    make_mesh,
    path_name,
    replicated,
)
from bias_clip.train.workdir import checkpoint


class Trained(NamedTuple):
    """A checkpoint of a run.

    Attributes:
      workdir: of the run.
      step: of the checkpoint.
      config: of the run.
      model: that the config describes.
      params: of the checkpoint, averaged ones where the run has them, on `mesh`.
      mesh: from the config.
    """

    workdir: Path
    step: int
    config: Any
    model: Model
    params: Any
    mesh: Mesh


def load_trained(workdir: Path, step: int | None = None) -> Trained:
    """Restores a checkpoint of the run in `workdir`, the newest by default.

    A run whose attention was a kernel for other devices is taken up with "xla", the same function.

    Raises:
      ValueError: if there is no run, or no checkpoint of that step.
    """
    workdir = run_folder(workdir)
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir} holds no run: there is no {path}.")
    config = from_plain(json.loads(path.read_text()))
    mesh = make_mesh(**config.mesh)
    # Without the key it is what make_model takes.
    if not has_kernel(config.model.get("attention", "xla"), mesh.devices.flat[0].platform):
        config.model.attention = "xla"
    examples = len(make_source(**config.data.source.to_dict()))
    setup = make_setup(config, mesh=mesh, examples_per_epoch=examples)
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as saved:
        steps = list(saved.all_steps())
        step = saved.latest_step() if step is None else step
        if step not in steps:
            raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {steps}.")
        state, _ = checkpoint.restore(saved, step, setup.abstract_state)
    params = state.params if state.ema is None else state.ema
    return Trained(workdir, step, config, setup.model, params, mesh)


def load_stages(workdirs: Sequence[Path], steps: Sequence[int] = ()) -> list[Trained]:
    """The checkpoints of several runs; `steps` is empty for the newest ones, or one of each.

    Raises:
      ValueError: if there is no run, or are more or fewer steps than runs; as `load_trained`.
    """
    if not workdirs:
        raise ValueError("got no workdir; give one, or several that are one model.")
    if steps and len(steps) != len(workdirs):
        raise ValueError(
            f"got {len(steps)} steps for {len(workdirs)} workdirs; give one for each, or none."
        )
    newest: list[int | None] = [None] * len(workdirs)
    pairs = zip(workdirs, steps or newest, strict=True)
    return [load_trained(workdir, step) for workdir, step in pairs]


def as_stage(trained: Trained, batch_size: int) -> Stage:
    """The model as a part of a concatenated one; batches have `batch_size` rows, over all devices.

    Raises:
      ValueError: if the batch does not divide over the devices.
    """
    model, mesh, config = trained.model, trained.mesh, trained.config
    check_batch_size(batch_size, mesh)
    params = gather(trained.params)
    rows, whole = batch_sharding(mesh), replicated(mesh)
    image = jax.jit(lambda p, x: model.features(p, image=x).image, out_shardings=whole)
    text = jax.jit(lambda p, x: model.features(p, text=x).text, out_shardings=whole)
    logit = model.apply(params)  # no tower: only what makes cosines logits
    return Stage(
        image=lambda x: image(params, jax.device_put(x, rows)),
        text=lambda x: text(params, jax.device_put(x, rows)),
        image_fn=_image_fn(config.evaluation.image),
        text_fn=_text_fn(json.dumps(config.data.text.to_dict(), sort_keys=True)),
        scale=float(logit.scale),
        bias=float(logit.bias),
    )


def identity(trained: Trained) -> dict[str, Any]:
    """What tells a checkpoint from others, wherever it lies: step, hash of config, of parameters."""
    text = (trained.workdir / "config.json").read_text()
    config = json.dumps(json.loads(text), sort_keys=True).encode()
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params):
        array = np.asarray(leaf)
        digest.update(f"{path_name(path)}:{array.dtype}{array.shape},".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    hashes = (hashlib.sha256(config).hexdigest(), digest.hexdigest())
    return {"step": trained.step, "config_sha256": hashes[0], "params_sha256": hashes[1]}


@functools.cache
def _image_fn(ops: str) -> ImageFn:
    """One object for equal operations, so that a picture is prepared once for all stages."""
    return make_image_fn(ops)


@functools.cache
def _text_fn(arguments: str) -> TextFn:
    return make_text_fn(**json.loads(arguments))
