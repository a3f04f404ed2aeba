"""A run of seconds: coloured squares with captions, and the smallest model."""

import json

import numpy as np

from bias_clip.data.sources import SOURCES
from bias_clip.train import loop
from bias_clip.train.config_io import to_plain
from bias_clip.train.evaluation import make_evaluation
from bias_clip.train.setup import make_setup
from configs.default import get_config

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120,) * 3}
SHADES = 10


class Squares:
    """Forty images: a colour in ten shades, each with two captions."""

    def __init__(self, *, shift: int = 0):
        self.shift = shift
        names = np.repeat(np.array(list(COLORS)), SHADES)
        self.columns = {"id": np.array([f"square/{i}" for i in range(len(self))]), "name": names}

    def __len__(self):
        return len(COLORS) * SHADES

    def __getitem__(self, i):
        name, color = list(COLORS.items())[i // SHADES]
        pixels = np.clip(np.array(color) + 3 * (i % SHADES) + self.shift, 0, 255).astype(np.uint8)
        image = np.broadcast_to(pixels, (16, 16, 3)).copy()
        captions = (f"{name}", f"a {name} square")
        return {"id": f"square/{i}", "image": image, "captions": captions, "name": name}


def squares_source(*, shift: int = 0) -> Squares:
    return Squares(shift=shift)


def use_squares(monkeypatch):
    monkeypatch.setitem(SOURCES, "squares", squares_source)


def share_compiled(monkeypatch):
    """Runs of equal configs in one process compile once: most of their time is the compiler's.

    A run that continues another then has the other's compiled step. `test_end_to_end.py` and
    `test_kills.py` continue in new processes.
    """
    monkeypatch.setattr(loop, "make_setup", _shared_setup)
    monkeypatch.setattr(loop, "make_evaluation", _shared_evaluation)


_COMPILED = {}


def _shared_setup(config, *, mesh, examples_per_epoch):
    key = json.dumps([to_plain(config), dict(mesh.shape), examples_per_epoch], default=str)
    if key not in _COMPILED:
        _COMPILED[key] = make_setup(config, mesh=mesh, examples_per_epoch=examples_per_epoch)
    return _COMPILED[key]


def _shared_evaluation(evals, *, model, **arguments):
    plain = {name: value for name, value in arguments.items() if name != "mesh"}
    key = json.dumps([evals, plain, id(model), dict(arguments["mesh"].shape)], default=str)
    if key not in _COMPILED:
        _COMPILED[key] = make_evaluation(evals, model=model, **arguments)
    return _COMPILED[key]


def tiny_config(**changes):
    """Eight steps of 16 examples; `changes` are dotted keys with `__` for the dot."""
    ops = "decode|resize(16)|value_range(-1,1)"
    config = get_config()
    config.total, config.batch_size, config.log_every = "8 steps", 16, "2 steps"
    config.data.source = dict(name="squares")
    config.data.image = config.evaluation.image = ops
    config.data.text.length = 8
    config.model.image = dict(variant="mu/8", size=16)
    config.model.text = dict(variant="mu", vocab_size=2_000, length=8, out_dim=32)
    config.objective.sigmoid.duplicates = "mask"
    config.evaluation.every, config.evaluation.batch_size = "4 steps", 16
    config.evals = dict(
        color=dict(type="zeroshot", source=dict(name="squares", shift=5), label="name")
    )
    config.checkpoint.every = "3 steps"
    for key, value in changes.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config
