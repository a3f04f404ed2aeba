"""Folders of the golden checkpoints, changed copies of their files, and how far two arrays are apart."""

import json
from pathlib import Path

import numpy as np

from bias_clip.pretrained.files import safetensors
from bias_clip.pretrained.files.read import read_weights

GOLDEN = Path(__file__).parent / "golden"


def arrays(path):
    """The tensors of a file as arrays of their own."""
    tensors = read_weights([Path(path)]).tensors
    return {name: np.array(tensor.array()) for name, tensor in tensors.items()}


def rewritten(tmp_path, folder, change, name="model.safetensors", config="config.json"):
    """A copy of a golden folder whose tensors went through `change`, which may edit or return them."""
    tensors = arrays(GOLDEN / folder / name)
    tensors = change(tensors) or tensors
    safetensors.write(tmp_path / "model.safetensors", tensors, {})
    if config is not None:
        (tmp_path / config).write_bytes((GOLDEN / folder / config).read_bytes())
    return tmp_path


def edit_config(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def distance(got, expected):
    """The largest difference, relative to the largest number."""
    expected = np.asarray(expected, np.float64)
    return np.abs(np.asarray(got, np.float64) - expected).max() / np.abs(expected).max()
