"""The environment in which a user types a command: one device, programs compiled in full."""

import os


def environment(**more):
    """Ours without what tests/conftest.py sets for itself, and `more`.

    A command that trains or evaluates a model of real size takes twice as long without LLVM's passes.
    """
    ours = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    return {**ours, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", **more}
