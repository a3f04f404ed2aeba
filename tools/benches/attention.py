"""Attention: values, gradients and time of a fused kernel against XLA's, on the device of this machine.

Run it once on a new kind of chip before `config.model.attention` names a kernel. All forms get the same
numbers in bfloat16. Errors are the largest difference to float32, relative to the largest exact number.
Expect a few roundings to the 8 bits of bfloat16, 0.4 % each; the benchmark exits with status 1 above 2 %. With
`--negative 1000` all logits are far below zero, where cuDNN's backward pass has been reported to give NaN on H100
and H200 (cudnn-frontend issues 160 and 1072; pytorch issue 196678). On a CPU the kernel for TPUs is interpreted, so its time has no meaning.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bias_clip.models.attention import attend
from tools.benches.step import take_turns

KERNELS = {"tpu": "pallas", "cpu": "pallas", "gpu": "cudnn"}
ARRAYS = ("out", "dq", "dk", "dv")
TOLERANCE = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=196)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--size", type=int, default=64, help="numbers of a head")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each form; 0: values only")
    parser.add_argument(
        "--negative",
        type=float,
        default=0.0,
        help="by how much every logit is lowered, such as 1000",
    )


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """Prints and returns errors and seconds by form; ends with status 1 if the kernel is too far off."""
    kernel = KERNELS[jax.default_backend()]
    inputs = make_inputs((args.examples, args.tokens, args.heads, args.size), args.negative)
    with jax.default_matmul_precision("highest"):
        exact = [
            np.asarray(x) for x in value_and_grads("xla")(*(x.astype("float32") for x in inputs))
        ]
    forms = {kind: value_and_grads(kind) for kind in ("xla", kernel)}
    errors = {kind: largest_errors(form(*inputs), exact) for kind, form in forms.items()}
    record: dict[str, Any] = {"device": jax.devices()[0].device_kind, "errors": errors}
    print(f"{record['device']}: {args}")
    for kind, found in errors.items():
        print(f"{kind:<8}", *(f"{name} {error:.4f}" for name, error in found.items()))
    if args.rounds:
        run: dict[str, Callable[[], Any]] = {
            kind: functools.partial(_finish, form, inputs) for kind, form in forms.items()
        }
        times = take_turns(run, args.rounds)
        record["seconds"] = {kind: statistics.median(each) for kind, each in times.items()}
        xla, fused = record["seconds"]["xla"], record["seconds"][kernel]
        print(f"value and gradients: {kernel} {1e3 * fused:.3f} ms, XLA {1e3 * xla:.3f} ms")
    # Not `error >= TOLERANCE`: a NaN error must count as bad.
    bad = [name for name in ARRAYS if not errors[kernel][name] < _tolerance(name, args.negative)]
    record["bad"] = bad
    if bad:
        sys.exit(f"error: {kernel} is too far off, or not a number, in {', '.join(bad)}: {errors}")
    return record


def _tolerance(name: str, negative: float) -> float:
    """Any finite error of dq and dk is allowed where large parts of q and k must cancel in them."""
    return np.inf if negative and name in ("dq", "dk") else TOLERANCE


def make_inputs(shape: tuple[int, ...], negative: float = 0.0) -> list[jax.Array]:
    """q, k, v and the gradient of the result; all logits are about `negative` lower than without it."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dy = (jax.random.normal(key, shape) for key in keys)
    # q - c and k + c in every number: a head of `size` numbers loses c² size / sqrt(size) = negative.
    shift = (negative * shape[-1] ** -0.5) ** 0.5
    return [x.astype(jnp.bfloat16) for x in (q - shift, k + shift, v, dy)]


def value_and_grads(kind: str) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, gradient of the result) to the result and three gradients, jitted."""

    def run(q, k, v, dy):
        y, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, kind=kind), q, k, v)
        return (y, *vjp(dy))

    return jax.jit(run)


def largest_errors(got: tuple[jax.Array, ...], exact: list[np.ndarray]) -> dict[str, float]:
    """The largest difference of each array, relative to its largest exact number."""
    return {
        name: float(np.abs(np.asarray(x, np.float32) - y).max() / np.abs(y).max())
        for name, x, y in zip(ARRAYS, got, exact, strict=True)
    }


def _finish(form: Callable[..., Any], inputs: list[jax.Array]) -> None:
    jax.block_until_ready(form(*inputs))
