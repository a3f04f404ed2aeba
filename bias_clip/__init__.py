"""Image-text pretraining in JAX, and control over what the models learn to associate.

from bias_clip import load_run, probabilities

run = load_run("runs/emoji")
probabilities(run, "cat.png", ["a cat", "a dog"])
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["audit_functions", "load_run", "probabilities"]
_MODULES = {
    "audit_functions": "bias_clip.report.audits.audit_folder",
    "load_run": "bias_clip.train.workdir.load_run",
    "probabilities": "bias_clip.train.workdir.load_run",
}


def __getattr__(name: str) -> Any:
    # Loaded when it is asked for: `import bias_clip.losses` must not load the trainer.
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
