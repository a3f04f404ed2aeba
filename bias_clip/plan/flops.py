"""Counts the arithmetic of a function, and the peak arithmetic of the machine."""

import math
from collections.abc import Callable
from typing import Any

import jax

# Peak dense bfloat16 FLOP/s of one device, from the makers' data sheets.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def count_flops(function: Callable, *args: Any) -> float:
    """Returns the floating-point operations of the matrix products and convolutions in `function`.

    Counted from the jaxpr, so a scan counts its body once per iteration, which the compiler's own
    cost analysis does not. Two operations per multiply-add; elementwise work is not counted, as is
    usual for model FLOPs utilisation (MFU).

    Args:
      function: anything that `jax.make_jaxpr` can trace.
      *args: arrays or ShapeDtypeStructs.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def peak_flops() -> float | None:
    """Returns the peak FLOP/s of all devices, from data sheets; None on CPUs.

    A CPU has no such number: its peak changes with its clock and with other processes, so a measured
    peak would make a busy machine look well used.

    Raises:
      ValueError: for an accelerator without an entry in `PEAK_FLOPS`.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    # "TPU v5" is also the beginning of "TPU v5 lite".
    known = [name for name in PEAK_FLOPS if device.device_kind.startswith(name)]
    if not known:
        raise ValueError(
            f"no peak FLOP/s known for {device.device_kind!r}; known are {sorted(PEAK_FLOPS)}; "
            "add it to bias_clip/plan/flops.py."
        )
    # The longest name that fits, for the same reason.
    return PEAK_FLOPS[max(known, key=len)] * jax.device_count()


def _count(jaxpr: Any) -> float:
    total = 0.0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            total += _dot_flops(eqn)
        elif name == "conv_general_dilated":
            total += _conv_flops(eqn)
        elif name.startswith("dot_product_attention_fwd"):  # cuDNN's
            total += _attention_flops(eqn)
        elif name == "cond":
            # A branch that may run: the most expensive is an upper bound.
            total += max(_count(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            # A scan's body is one jaxpr, whatever its length.
            times = eqn.params["length"] if name == "scan" else 1
            if name == "shard_map":
                # Inside of shard_map shapes are those of one device.
                times = eqn.params["mesh"].size
            elif name == "pallas_call":
                # A kernel's jaxpr is one block of its grid.
                times = math.prod(eqn.params["grid_mapping"].grid)
            total += times * sum(_count(inner) for inner in _inner_jaxprs(eqn.params))
    return total


def _inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        value = getattr(value, "jaxpr", value)
        if hasattr(value, "eqns"):
            found.append(value)
    return found


def _dot_flops(eqn: Any) -> float:
    (contract, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contract)


def _attention_flops(eqn: Any) -> float:
    batch, queries, heads, size = eqn.invars[0].aval.shape
    # Two products, scores and their use.
    return 2 * 2.0 * batch * heads * queries * eqn.invars[1].aval.shape[1] * size


def _conv_flops(eqn: Any) -> float:
    kernel = eqn.invars[1].aval.shape
    out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    # Multiply-adds for one output: the kernel without its output features.
    per_output = math.prod(kernel) / out_features
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * per_output
