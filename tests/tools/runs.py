"""Runs as training leaves them, but with drawn parameters: a checkpoint without the training."""

import json

import jax
import numpy as np

from bias_clip.cli import export
from bias_clip.train.config_io import to_plain
from bias_clip.train.setup import make_setup
from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir import checkpoint
from tests.train.tiny import tiny_config


def make_run(workdir, *, seed=0, steps=(4,), examples=40, width=32, **changes):
    """A workdir with one checkpoint a step, each of other parameters; `width` of the embeddings."""
    config = tiny_config(model__text__out_dim=width, **changes)
    config.model.image = dict(variant="mu/8", size=16, out_dim=width)
    setup = make_setup(config, mesh=make_mesh(), examples_per_epoch=examples)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(to_plain(config)))
    with checkpoint.open_checkpoints(workdir / "checkpoints", keep=9) as manager:
        for step in steps:
            state = _drawn(setup.abstract_state, np.random.default_rng(seed + step))
            checkpoint.save(manager, step, state, {"step": step})
        manager.wait_until_finished()
    return workdir


def make_published(folder):
    """Returns a run, and the same model as a big_vision file with its vocabulary; use squares."""
    text = dict(tokenizer="emoji", length=8, lower=False, form="ascii_lower")
    ops = "decode|drop_alpha|resize(16,method=bilinear)|value_range(-1.0,1.0)"
    run = make_run(folder / "run", data__text=text, evaluation__image=ops, data__image=ops)
    export.main(["--from", str(run), "--layout", "big_vision", "--out", str(folder / "published")])
    return run, folder / "published" / "model.npz"


def _drawn(shapes, rng):
    """Normal parameters and zeros elsewhere, without compiling anything."""

    def zeros(leaf):
        return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)

    def normal(leaf):
        return jax.device_put(rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(zeros, shapes)._replace(params=jax.tree.map(normal, shapes.params))
