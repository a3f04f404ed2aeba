"""Image-text pretraining in JAX, and control over what the models learn to associate.

from bias_clip import load_run, probabilities

run = load_run("runs/emoji")
probabilities(run, "cat.png", ["a cat", "a dog"])
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["load_run", "probabilities"]


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: `import bias_clip.losses` must not load the trainer.
    if name in __all__:
        return getattr(importlib.import_module("bias_clip.train.workdir.load_run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
