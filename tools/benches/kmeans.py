"""k-means: seconds of a Lloyd iteration and an assignment for a million rows, against scikit-learn.

Both are timed in one process, in turns, on the same unit-norm rows. An iteration is 1/24 of the time by which
a fit of 25 iterations exceeds a fit of 1, so one-time work is left out. Each turn starts with a fit that is not
counted: the first after another library's turn also takes the machine's memory back. An assignment is `assign` or
`predict`. Rows are random, so that no structure helps and no fit converges early.

With `--topology v5e:16x16` (see bias_clip/plan/topology.py) an iteration over `--rows` rows per chip is compiled
for all chips instead: memory from the compiler's plan, FLOPs by counting. Nothing is run.
"""

import argparse
import functools
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bias_clip.core.formatting import GIB
from bias_clip.plan.flops import count_flops
from bias_clip.plan.topology import get_devices
from bias_clip.stages import assign, fit
from bias_clip.stages._lloyd import means, resting, sum_members
from bias_clip.stages._rows import make_rows
from bias_clip.stages.kmeans import CHUNK_SIZE
from tools.benches.step import take_turns

MILLION = 1e6
MORE = 24  # iterations of the longer fit beyond the shorter one's
AXIS = "rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `bench` reads."""
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000], help="of a chip")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--chunk-size", type=int, help="rows at a time (by platform)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--topology", help="compile for it, run nothing; such as v5e:16x16")


def bench(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Prints and returns one row per number of rows and of clusters."""
    devices = None if args.topology is None else get_devices(args.topology)
    rows = []
    for number in args.rows:
        for k in args.k:
            row: dict[str, Any] = {"rows": number, "width": args.width, "k": k}
            if devices is None:
                row |= {"seconds a million rows": measure(number, k, args)}
            else:
                row |= {"topology": args.topology} | compile_iteration(number, k, devices, args)
            rows.append(row)
            _print(row)
    return rows


def measure(number: int, k: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds for a million rows, by operation and library."""
    x = np.random.default_rng(0).normal(size=(number, args.width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    steps = _ours(x, k, args) | _sklearn(x, k)
    times = {name: statistics.median(t) for name, t in take_turns(steps, args.rounds).items()}
    scale = MILLION / number
    found = {}
    for who in ("ours", "scikit-learn"):
        if f"{who}, assign" in times:
            once = (times[f"{who}, {1 + MORE}"] - times[f"{who}, 1"]) / MORE
            found[f"iteration, {who}"] = once * scale
            found[f"assign, {who}"] = times[f"{who}, assign"] * scale
    return found


def compile_iteration(
    number: int, k: int, devices: list[Any], args: argparse.Namespace
) -> dict[str, float | str]:
    """GiB of each chip and FLOPs of one iteration over `number` rows of each."""
    # The accelerators' size: this machine's own platform does not count.
    size = args.chunk_size or CHUNK_SIZE
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))

    def iteration(x: Any, centres: Any, axis_name: str | None) -> Any:
        sums, labels, _ = sum_members(
            make_rows(x, None, axis_name), centres, chunk_size=size, axis_name=axis_name
        )
        return means(sums, centres, spherical=False), resting(sums, 1e-4), labels

    rows, whole = PartitionSpec(AXIS), PartitionSpec()
    spread = jax.shard_map(
        functools.partial(iteration, axis_name=AXIS),
        mesh=mesh,
        in_specs=(rows, whole),
        out_specs=(whole, whole, rows),
    )
    x, centres = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
        for shape, dtype, spec in (
            ((number * len(devices), args.width), args.dtype, rows),
            ((k, args.width), "float32", whole),
        )
    )
    local = jax.ShapeDtypeStruct((number, args.width), args.dtype)
    one = functools.partial(iteration, axis_name=None)
    record: dict[str, float | str] = {"GFLOP a chip": count_flops(one, local, centres) / 1e9}
    try:
        memory: Any = jax.jit(spread).lower(x, centres).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"compiler": str(error).splitlines()[0]}
    return record | {
        "rows and centres (GiB)": memory.argument_size_in_bytes / GIB,
        "temporaries (GiB)": memory.temp_size_in_bytes / GIB,
        "results (GiB)": memory.output_size_in_bytes / GIB,
    }


def _ours(x: np.ndarray, k: int, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    rows, init = jnp.asarray(x, args.dtype), jnp.asarray(x[:k])

    def iterate(number: int) -> None:
        given = {"init": init, "max_iterations": number, "tol": 0.0, "chunk_size": args.chunk_size}
        found = jax.block_until_ready(fit(rows, k, **given))
        if found.iterations < number:
            raise ValueError(f"{len(x)} rows came to rest after {found.iterations}; choose more.")

    def assign_all() -> None:
        jax.block_until_ready(assign(rows, init, chunk_size=args.chunk_size))

    return {f"ours, {name}": f for name, f in _turn(iterate).items()} | {"ours, assign": assign_all}


def _sklearn(x: np.ndarray, k: int) -> dict[str, Callable[[], Any]]:
    """The same for scikit-learn; empty if it is not installed."""
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError:
        return {}

    def iterate(number: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return KMeans(k, init=x[:k], n_init=1, max_iter=number, tol=0).fit(x)

    fits = {f"scikit-learn, {name}": f for name, f in _turn(iterate).items()}
    return fits | {"scikit-learn, assign": functools.partial(iterate(1).predict, x)}


def _turn(iterate: Callable[[int], Any]) -> dict[str, Callable[[], Any]]:
    """The fits of one turn: the first is not counted."""
    numbers = {"uncounted": 1, "1": 1, f"{1 + MORE}": 1 + MORE}
    return {name: functools.partial(iterate, number) for name, number in numbers.items()}


def _print(row: dict[str, Any]) -> None:
    print(f"{row['rows']:,} rows, width {row['width']}, {row['k']} clusters")
    numbers = row.get("seconds a million rows")
    if numbers is None:
        named = {n: v for n, v in row.items() if n not in ("rows", "width", "k")}
        for name, value in named.items():
            print(f"  {name:<24}", value if isinstance(value, str) else f"{value:12,.4f}")
        return
    for what in ("iteration", "assign"):
        ours, peer = (numbers.get(f"{what}, {who}") for who in ("ours", "scikit-learn"))
        beside = "" if peer is None else f"  scikit-learn {peer:8.3f} s  ratio {ours / peer:5.2f}"
        print(f"  {what:<10} ours {ours:8.3f} s a million rows{beside}", flush=True)
