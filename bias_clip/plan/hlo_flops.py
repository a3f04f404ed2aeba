"""The arithmetic of one instruction of HLO: products and convolutions, as three compilers write them."""

import math
import re

from bias_clip.plan.hlo_text import Computation, Instruction

_MATMUL_CALLS = ("__cublas$gemm", "__cublas$lt$matmul")
ATTENTION = "__cudnn$fmhaSoftmax"
"""Begins the name of cuDNN's kernels, forward and backward."""


def own_flops(x: Instruction, scope: Computation) -> float:
    """Returns two operations per multiply-add of `x` itself, without the computations it calls.

    Args:
      x: any instruction.
      scope: its computation, for the shapes of its operands.
    """
    if x.opcode == "dot":
        # The result has every axis but the contracted ones, so the product of both counts all multiply-adds.
        contracted = _numbers(x.attribute("lhs_contracting_dims"))
        left = scope[x.operands[0]].shapes[0].dims
        return 2.0 * math.prod(x.shapes[0].dims) * math.prod(left[i] for i in contracted)
    if x.opcode == "convolution":
        return _convolution_flops(x, scope)
    if x.opcode == "custom-call" and "tpu_custom_call" in x.rest:
        return _kernel_flops(x)
    if x.opcode == "custom-call" and ATTENTION in x.rest:
        return _attention_flops(x, scope)
    if is_product(x):
        # cuBLAS calls keep the dimensions of the product as JSON, as the backend config.
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', x.rest)
        left = scope[x.operands[0]].shapes[0].dims
        contracted = _numbers(found[1].replace('"', "")) if found else ()
        return 2.0 * math.prod(x.shapes[0].dims) * math.prod(left[i] for i in contracted)
    return 0.0


def is_product(x: Instruction) -> bool:
    """Whether `x` is a matrix product that a GPU leaves to cuBLAS."""
    return x.opcode == "custom-call" and any(name in x.rest for name in _MATMUL_CALLS)


def _kernel_flops(x: Instruction) -> float:
    """The FLOPs of a Pallas kernel, from its cost estimate: its code is not read here."""
    found = re.search(r'"cost_estimate":\{"flops":"(\d+)"', x.rest)
    if found is None:
        raise ValueError(f"the kernel {x.name!r} has no cost_estimate; give pallas_call one.")
    return float(found[1])


def _attention_flops(x: Instruction, scope: Computation) -> float:
    """Forward: scores and their use, two products. Backward: scores again and four gradients."""
    found = re.search(
        r'"intermediate_tensor_shape":.*?"dimensions":\[([^\]]*)\]', x.rest.replace(" ", "")
    )
    if found is None:
        raise ValueError(f"the attention {x.name!r} has no intermediate_tensor_shape.")
    scores = _numbers(found[1].replace('"', ""))
    # Backward: scores again, dv, dw, dq and dk.
    products = 5 if f"{ATTENTION}Backward" in x.rest else 2
    return 2.0 * products * math.prod(scores) * scope[x.operands[0]].shapes[0].dims[-1]


def _convolution_flops(x: Instruction, scope: Computation) -> float:
    """A TPU writes products as convolutions, batches as dilated windows: only real taps count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.rest)
    if labels is None:
        raise ValueError(f"the convolution {x.name!r} has no dim_labels.")
    left, right = (scope[name].shapes[0].dims for name in x.operands[:2])
    out, window = x.shapes[0].dims, _window(x.attribute("window", default="{}"))
    # Each output position of a feature sums over input features and over the window's real taps.
    total = 2.0 * out[labels[3].index("b")] * out[labels[3].index("f")]
    total *= right[labels[2].index("i")]
    for spatial in (label for label in labels[3] if label.isdecimal()):
        i = int(spatial)
        total *= _taps(
            left[labels[1].index(spatial)],
            right[labels[2].index(spatial)],
            out[labels[3].index(spatial)],
            **{key: values[i] for key, values in window.items() if key != "size"},
        )
    return total


def _taps(
    size: int,
    kernel: int,
    out: int,
    stride: str = "1",
    pad: str = "0_0",
    lhs_dilate: str = "1",
    rhs_dilate: str = "1",
    rhs_reversal: str = "0",
) -> int:
    """How many pairs of an output and a kernel position meet a real input along one dimension."""
    step, gap, spread, low = int(stride), int(lhs_dilate), int(rhs_dilate), int(pad.split("_")[0])
    # k-th tap of the i-th output, in the dilated and padded input.
    positions = (i * step + k * spread - low for i in range(out) for k in range(kernel))
    # Only every gap-th position is an input; the zeros between and around cost nothing to a chip.
    return sum(p % gap == 0 and 0 <= p // gap < size for p in positions)


def _window(text: str) -> dict[str, list[str]]:
    return {
        key: value.split("x")
        for key, value in (part.split("=") for part in text.strip("{}").split())
    }


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
