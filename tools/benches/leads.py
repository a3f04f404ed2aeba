"""Switches single measures for speed off, so that a benchmark can tell what each one is worth on a chip."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bias_clip.models import attention, layers


def switch_off(names: Sequence[str]) -> None:
    """Replaces the functions of these leads for the rest of the process; before a model is made.

    Raises:
      ValueError: a name that is not in `LEADS`.
    """
    for name in names:
        if name not in LEADS:
            raise ValueError(f"lead: got {name!r}; expected one of {', '.join(LEADS)}.")
        place, attribute, plain = LEADS[name]
        setattr(place, attribute, plain)


def _plain_flatten(kernel: Any, rows: int) -> Any:
    return kernel.reshape(rows, -1)


def _two_passes(wide: Any, mean: Any, one_pass: bool) -> Any:
    del one_pass
    return jnp.mean(jnp.square(wide - mean[..., None]), axis=-1)


LEADS: dict[str, tuple[Any, str, Any]] = {
    "variance-in-one-pass": (layers, "variance", _two_passes),
    "flat-gradients": (layers, "flatten", _plain_flatten),
    "activations-from-arguments": (layers, "from_argument", lambda activation: activation),
    "short-softmax-gradient": (attention, "softmax", jax.nn.softmax),
}
"""Name to the module, its function, and the plain form of it."""
