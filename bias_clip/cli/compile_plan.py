"""Compiles the train step of a config for accelerators this machine lacks: does it fit, how fast at best?

    bias-clip compile-plan --config=configs/siglip_b16.py --topology=v5e:16x16
    bias-clip compile-plan --config=configs/siglip_so400m.py --topology=h100:32 --set mesh.fsdp=8

Topologies: v4, v5e, v5p or v6e and a shape, with the extra `tpu` (libtpu, no TPU); h100 or a100 and
a number, with the extra `cuda` (no GPU). Takes minutes and 2 to 4 GiB. docs/plans.md explains what
is printed and has a table. Ends with status 1 if the step does not fit.
"""

import argparse
import contextlib
import gzip
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.flags import Parser, add_json, add_set, read_set, run_tool, show
from bias_clip.core.write import write_file

PROGRESS_SECONDS = 10.0
# Without a GPU, XLA cannot time tiles to choose one, and its default choice fails to compile.
GPU_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}


def main(argv: Sequence[str] | None = None) -> None:
    """Parses, compiles, prints."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> int:
    """Compiles and shows the plan; returns 1 if the step does not fit.

    Raises:
      ValueError: an unknown topology, or a config that cannot be set up on it.
    """
    from bias_clip.plan.roofline import get_chip
    from bias_clip.plan.topology import get_devices, parse_topology
    from bias_clip.plan.xla_flags import compiler_options
    from bias_clip.report.plan import format_plan, make_record

    # libtpu writes its buffers to a folder that has to be known before the devices are made.
    with tempfile.TemporaryDirectory() as folder:
        kind, _ = parse_topology(args.topology)
        chip = get_chip(kind)
        dump = None if chip.gpu else folder
        devices = get_devices(args.topology, dump=dump)
        flags = compiler_options(kind) if args.xla_flags else {}
        measured = measure(
            args.config, devices, overrides=args.set, loss=args.loss, dump=dump, flags=flags
        )
    if args.hlo is not None and "hlo" in measured["step"]:
        write_file(args.hlo, gzip.compress(measured["step"]["hlo"].encode()))
    record = {"config": args.config, "set": args.set, "topology": args.topology}
    record |= make_record(measured, chip)
    show(format_plan(record), record, args.json)
    return 0 if record["fits"] else 1


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE[:ARGUMENT]", help="of the run")
    add("--topology", required=True, metavar="CHIP:SHAPE", help="v5e:16x16, v4:4x4x8, h100:32, ...")
    add_set(parser)
    add(
        "--loss",
        choices=("ring", "global"),
        default="ring",
        help="global: all pairs in one product, left to the compiler to spread; to compare only",
    )
    add(
        "--xla-flags",
        action="store_true",
        help="compile with the chip's flags of plan/xla_flags.py",
    )
    add_json(parser)
    add("--hlo", type=Path, metavar="FILE", help="write the compiled text there, as .gz")
    return parser


def measure(
    config: str,
    devices: list[Any],
    *,
    overrides: list[str],
    loss: str = "ring",
    dump: str | None = None,
    flags: Mapping[str, str | bool] | None = None,
) -> dict[str, Any]:
    """Compiles the step of a config, and its loss alone, for `devices`.

    Args:
      config: a file, or "file:argument" for one whose `get_config` takes an argument.
      devices: from `get_devices`.
      overrides: "key=value", as `read_set` takes them.
      loss: "ring", as it is trained, or "global".
      dump: the folder that `get_devices` was given; needed for TPUs.
      flags: of XLA, by name.

    Returns:
      What the compiler says, as `report.plan.make_record` takes it.

    Raises:
      ValueError: a config that cannot be set up on so many devices, TPUs without `dump`, or a flag that
        the installed XLA does not know.
    """
    from bias_clip.train.config_io import load_config
    from bias_clip.train.objective import make_objective
    from bias_clip.train.options.overrides import apply_overrides
    from bias_clip.train.setup import make_setup
    from bias_clip.train.sharding import make_mesh

    if devices[0].platform == "tpu" and dump is None:
        raise ValueError("TPUs need a dump: the folder that `get_devices` was given, got None.")
    path, _, argument = config.partition(":")
    loaded = load_config(Path(path), *filter(None, [argument]))
    apply_overrides(loaded, read_set(overrides))
    mesh = make_mesh(**loaded.mesh, devices=devices)
    make = make_global_objective if loss == "global" else make_objective
    setup = make_setup(loaded, mesh=mesh, examples_per_epoch=None, make_objective=make)
    objective = make(loaded.objective.to_dict(), mesh)
    lowered = setup.train_step.lower(setup.abstract_state, setup.abstract_batch)
    options: dict[str, Any] = dict(flags or {})
    options |= GPU_OPTIONS if devices[0].platform in ("cuda", "gpu") else {}
    return _describe(loaded, setup, loss) | {
        "loss alone": _compile("the loss", lower_loss(setup, objective), options, dump),
        "step": _compile("the step", lowered, options, dump),
    }


def make_global_objective(terms: dict, mesh: Any) -> Any:
    """Returns the objective on whole arrays, without `shard_map`: the compiler spreads it."""
    from bias_clip.train.objective import TERMS

    def objective(outputs: Any, batch: Any) -> Any:
        parts = {}
        for name, arguments in terms.items():
            plain = {key: value for key, value in arguments.items() if key != "coef"}
            parts[name] = TERMS[name](outputs, batch, axis_name=None, **plain)
        return sum(terms[name]["coef"] * value for name, value in parts.items()), parts

    return objective


def lower_loss(setup: Any, objective: Any) -> Any:
    """Returns value and gradient of the objective alone, lowered for embeddings of the batch."""
    import jax

    from bias_clip.data.stream.batch import ROW_KEYS
    from bias_clip.train.sharding import batch_sharding, replicated

    batch = setup.abstract_batch
    outputs = jax.eval_shape(
        setup.apply, setup.abstract_state.params, batch["image"], batch["text"]
    )
    rows, whole = batch_sharding(setup.mesh), replicated(setup.mesh)
    # Rows over the mesh, scalars on every device, as in the step.
    outputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows if x.ndim else whole),
        outputs,
    )
    # The objective may read these columns; without them it would not lower.
    columns = {key: value for key, value in batch.items() if key in ROW_KEYS}
    value_and_grad = jax.jit(jax.value_and_grad(lambda o, b: objective(o, b)[0]))
    return value_and_grad.lower(outputs, columns)


def _describe(config: Any, setup: Any, loss: str) -> dict[str, Any]:
    import jax

    from bias_clip.plan.flops import count_flops

    state, batch = setup.abstract_state, setup.abstract_batch
    forward = count_flops(setup.apply, state.params, batch["image"], batch["text"])
    return {
        "chips": setup.mesh.size,
        "mesh": dict(setup.mesh.shape),
        "loss form": loss,
        "remat": config.model.remat,
        "attention": setup.model.attention,
        "batch size": config.batch_size,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        # The backward pass takes two products for each one of the forward pass.
        "model flops": 3 * forward,
        "bytes": {
            "parameters": bytes_a_chip(state.params),
            "optimizer": bytes_a_chip((state.opt_state, state.ema)),
            "batch": bytes_a_chip(batch),
        },
    }


def bytes_a_chip(tree: Any) -> float:
    """Returns the bytes of one chip's part of ShapeDtypeStructs with shardings."""
    import jax
    import numpy as np

    return float(
        sum(
            np.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
    )


def _compile(what: str, lowered: Any, options: dict[str, Any], dump: str | None) -> dict[str, Any]:
    import jax

    # Each compilation must find its own buffers alone in the folder.
    for old in [] if dump is None else list(Path(dump).iterdir()):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    start = time.perf_counter()
    try:
        with progress(what):
            compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            raise ValueError(
                f"the installed XLA does not know a flag of plan/xla_flags.py: {str(error).splitlines()[0]}"
            ) from error
        # Too little memory is an answer and not a failure: the plan says that it does not fit.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"seconds": time.perf_counter() - start, "refused": str(error).splitlines()[0]}
    memory = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}  # None for GPUs
    return {
        "seconds": time.perf_counter() - start,
        "temporaries": _temporaries(memory, dump),
        "arguments": float(memory.argument_size_in_bytes),
        "code": float(memory.generated_code_size_in_bytes),
        "cost_analysis flops": cost.get("flops"),
        "hlo": compiled.as_text(),
    }


def _temporaries(memory: Any, dump: str | None) -> float:
    """Bytes that a program needs beside its arguments and results."""
    if dump is None:
        return float(memory.temp_size_in_bytes)
    # libtpu's number is too large where arguments are donated: that of B/16 says 4.6 GiB in all, and
    # the program compiles for a chip that has 3.5.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = list(Path(dump).glob("*.after_optimizations-buffer-assignment.txt"))
    if len(found) != 1:
        raise RuntimeError(f"expected libtpu's buffers of one program in its dump, got {found}.")
    return count_allocated(found[0].read_text()) - memory.argument_size_in_bytes - results


def count_allocated(buffers: str) -> float:
    """Bytes of a TPU's memory in XLA's text of a program's buffers; those on the chip have a color.

    Raises:
      ValueError: there are none.
    """
    sizes = re.findall(r"^allocation \d+: size (\d+), (?!color )", buffers, re.MULTILINE)
    if not sizes:
        raise ValueError(f"no allocation in the compiler's text, which begins {buffers[:200]!r}.")
    return float(sum(map(int, sizes)))


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Prints to stderr, every so often, for how long `what` has been compiling."""
    start, done = time.perf_counter(), threading.Event()

    def tell() -> None:
        while not done.wait(PROGRESS_SECONDS):
            seconds = time.perf_counter() - start
            print(f"compiling {what} ... {seconds:.0f} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    print(f"compiling {what} ...", file=sys.stderr, flush=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
