"""Losses: temporary memory and time of value and gradient, dense, chunked and as a ring of devices.

Each form is jitted value-and-gradient in the embeddings, the scale and the bias:

  plain    the textbook form, one matrix of all logits, written here: the code without a library
  dense    ours without `chunk_size`
  chunked  ours with `--chunk-size`
  ring     ours on `--devices` devices, whose blocks of texts go round; chunked too with `ring chunked`
  open_clip  its loss in PyTorch, time only, if it is installed

Memory is the compiler's plan for temporaries on each device. Times are medians, measured in turns, of the
forms whose temporaries stay below `--most-gib`. With `--topology v5e:4x4` (or h100:1, see
bias_clip/plan/topology.py) everything is compiled for those chips instead, one or all, and nothing is run.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bias_clip.core.formatting import GIB
from bias_clip.losses import fairkl, sigmoid_loss, softmax_loss, weighted_mean
from bias_clip.plan.topology import get_devices
from tools.benches.step import take_turns

AXIS = "data"
LABELS = 100  # classes of FairKL's rows
LOSSES = ("sigmoid", "softmax", "fairkl")
FORMS = ("plain", "dense", "chunked", "ring", "ring chunked", "open_clip")


class Form(NamedTuple):
    """One way to compute a loss: the function of (zimg, ztxt, scale, bias), and its inputs."""

    function: Any  # jitted
    inputs: tuple[jax.ShapeDtypeStruct, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--losses", nargs="+", default=["sigmoid", "softmax"], choices=LOSSES)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, help="what is timed")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 4096, 16384, 32768, 65536])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--chunk-size", type=int, default=1024)
    parser.add_argument("--devices", type=int, default=8, help="of the ring")
    parser.add_argument("--most-gib", type=float, default=10.0, help="temporaries of what is timed")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each form; 0: memory only")
    parser.add_argument("--topology", help="compile for it, run nothing; such as v5e:4x4 or h100:1")


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns one row per loss and batch: GiB of temporaries and seconds by form."""
    devices = _devices(args)
    rows = []
    for loss in args.losses:
        for batch in args.batches:
            forms = make_forms(loss, batch, args.width, args.chunk_size, devices)
            row = {"loss": loss, "batch": batch, "width": args.width} | measure(loss, forms, args)
            rows.append(row)
            _print(row)
    return rows


def make_forms(
    loss: str, batch: int, width: int, chunk_size: int, devices: list[Any]
) -> dict[str, Form]:
    """The forms of a loss at a size, by name; the ring goes over all devices."""
    labels = jnp.asarray(np.arange(batch) % LABELS, jnp.int32)

    def ours(chunk_size, axis_name=None):
        def function(zimg, ztxt, scale, bias):
            rest: dict[str, Any] = {"chunk_size": chunk_size, "axis_name": axis_name}
            if loss == "fairkl":
                own = _own_labels(labels, len(zimg), axis_name)
                return fairkl(zimg, own, own % 2, form="mean", **rest)
            if loss == "sigmoid":
                values = sigmoid_loss(zimg, ztxt, scale=scale, bias=bias, **rest)
            else:
                values = softmax_loss(zimg, ztxt, scale=scale, **rest)
            return weighted_mean(values, axis_name=axis_name)

        return function

    plain = {"sigmoid": plain_sigmoid, "softmax": plain_softmax}
    one = Mesh(np.array(devices[:1]), (AXIS,), axis_types=(AxisType.Auto,))
    ring = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    functions = {"plain": (plain[loss], one)} if loss in plain else {}
    functions |= {"dense": (ours(None), one), "chunked": (ours(chunk_size), one)}
    functions["ring"] = (_sharded(ours(None, AXIS), ring), ring)
    functions["ring chunked"] = (_sharded(ours(chunk_size, AXIS), ring), ring)
    return {
        name: Form(
            jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3))), _inputs(batch, width, mesh)
        )
        for name, (function, mesh) in functions.items()
    }


def plain_sigmoid(zimg: Any, ztxt: Any, scale: Any, bias: Any) -> Any:
    """SigLIP's loss, written directly."""
    logits = scale * zimg @ ztxt.T + bias
    signs = 2 * jnp.eye(len(logits)) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1))


def plain_softmax(zimg: Any, ztxt: Any, scale: Any, bias: Any) -> Any:
    """CLIP's loss, written directly."""
    del bias
    logits = scale * zimg @ ztxt.T
    own = jnp.diagonal(logits)
    both = jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
    return jnp.mean(both / 2 - own)


def measure(loss: str, forms: dict[str, Form], args: argparse.Namespace) -> dict[str, Any]:
    """Returns the GiB of temporaries of each form, or the compiler's refusal, and its seconds."""
    memory: dict[str, float | str] = {}
    steps: dict[str, Callable[[], Any]] = {}
    for name, form in forms.items():
        try:
            compiled = form.function.lower(*form.inputs).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            memory[name] = "does not fit"
            continue
        gib = compiled.memory_analysis().temp_size_in_bytes / GIB
        memory[name] = gib
        timed = args.topology is None and args.rounds and name in args.forms
        if timed and gib < args.most_gib:
            inputs = _arrays(form.inputs)
            steps[name] = functools.partial(_run, compiled, inputs)
    if "dense" in steps and "open_clip" in args.forms:
        peer = open_clip_step(loss, _arrays(forms["dense"].inputs))
        steps |= {} if peer is None else {"open_clip": peer}
    return {"gib": memory, "seconds": _medians(steps, args.rounds)}


def open_clip_step(loss: str, inputs: tuple[jax.Array, ...]) -> Callable[[], Any] | None:
    """Value and gradient of open_clip's loss on the same inputs; None if it has no such loss."""
    try:
        import open_clip
        import torch
    except ImportError:
        return None
    losses = {"sigmoid": open_clip.loss.SigLipLoss, "softmax": open_clip.loss.ClipLoss}
    if loss not in losses:
        return None
    function = losses[loss]()
    tensors = [torch.tensor(np.asarray(x), requires_grad=True) for x in inputs]
    if loss == "softmax":
        tensors.pop()

    def step() -> None:
        torch.autograd.grad(function(*tensors), tensors)

    return step


def _medians(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    times = take_turns(steps, rounds) if rounds else {}
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _run(compiled: Any, inputs: tuple[jax.Array, ...]) -> None:
    jax.block_until_ready(compiled(*inputs))


def _devices(args: argparse.Namespace) -> list[Any]:
    if args.topology is not None:
        return get_devices(args.topology)
    if args.devices > len(jax.devices()):
        raise SystemExit(
            f"error: {args.devices} devices wanted, {len(jax.devices())} found; on a CPU give "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={args.devices}."
        )
    return jax.devices()[: args.devices]


def _own_labels(labels: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
    return jax.lax.dynamic_slice_in_dim(labels, first, rows)


def _sharded(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    rows, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(function, mesh=mesh, in_specs=(rows, rows, whole, whole), out_specs=whole)


def _inputs(batch: int, width: int, mesh: Mesh) -> tuple[jax.ShapeDtypeStruct, ...]:
    specs = (PartitionSpec(AXIS), PartitionSpec(AXIS), PartitionSpec(), PartitionSpec())
    shapes: list[tuple[int, ...]] = [(batch, width), (batch, width), (), ()]
    return tuple(
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    )


def _arrays(inputs: tuple[jax.ShapeDtypeStruct, ...]) -> tuple[jax.Array, ...]:
    """Random unit-norm rows, scale 10 and bias -10, with the placement of the inputs."""
    random = np.random.default_rng(0)
    arrays = [random.normal(size=x.shape).astype(np.float32) for x in inputs[:2]]
    arrays = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in arrays]
    arrays += [np.float32(10.0), np.float32(-10.0)]
    return tuple(jax.device_put(x, y.sharding) for x, y in zip(arrays, inputs, strict=True))


def _print(row: dict[str, Any]) -> None:
    print(f"{row['loss']}, batch {row['batch']:,}, width {row['width']}")
    for name in [*row["gib"], *(set(row["seconds"]) - set(row["gib"]))]:
        gib = row["gib"].get(name)
        memory = f"{gib:9.3f} GiB" if isinstance(gib, float) else f"{gib or '-':>13}"
        taken = row["seconds"].get(name)
        spent = "" if taken is None else f"{taken:9.3f} s"
        ratio = ""
        if taken is not None and "dense" in row["seconds"]:
            ratio = f"{taken / row['seconds']['dense']:7.2f} of dense"
        print(f"  {name:<13} {memory} {spent} {ratio}", flush=True)
