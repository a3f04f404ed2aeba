"""The table of docs/plans.md: compiles all rows that are not in the file yet, then prints all rows.

    python -m tools.experiments.plan_table docs/plans.json [--only v5e] [--programs DIR] > table.md

A row is a call of `compile_plan` in a separate process and is saved at once. It takes one to three minutes on two
cores and 2 to 4 GiB; all rows take about an hour. To compile a row again, delete it from the file; --programs keeps
the compiled programs as text. Rows of TPUs need the extra `tpu`, those of GPUs the extra `cuda`.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.flags import Parser

B16, SO400M, ALL = "siglip_b16.py", "siglip_so400m.py", "siglip_b16.py:all"
CHUNKED, CUDNN = "objective.sigmoid.chunk_size={}", "model.attention=cudnn"
PALLAS, DOTS = "model.attention=pallas", "model.remat=dots"
REPLICATED, FSDP8, FSDP16 = "mesh.fsdp=1", "mesh.fsdp=8", "mesh.fsdp=16"
UNROLLED = "model.scan=False"
ONE_GPU = ("batch_size=256", "model.remat=none", UNROLLED, "mesh.fsdp=1")
IN_TWO = ("accumulation.mode=cached", "accumulation.steps=2")
# Name, config, topology, overrides, and the form of the loss.
ROWS: tuple[tuple[str, str, str, tuple[str, ...], str], ...] = (
    ("B/16, **the default**: ring, replicated", B16, "v5e:16x16", (), "ring"),
    ("ring, fsdp 16", B16, "v5e:16x16", (FSDP16,), "ring"),
    ("ring in chunks of 32, replicated", B16, "v5e:16x16", (CHUNKED.format(32),), "ring"),
    ("dense, replicated", B16, "v5e:16x16", (), "global"),
    ("dense, fsdp 16", B16, "v5e:16x16", (FSDP16,), "global"),
    ('ring, remat "dots"', B16, "v5e:16x16", (DOTS,), "ring"),
    ('ring, remat "minimal"', B16, "v5e:16x16", ("model.remat=minimal",), "ring"),
    ("every regulariser (below)", ALL, "v5e:16x16", (), "ring"),
    ("ring, replicated, Pallas", B16, "v5e:16x16", (PALLAS,), "ring"),
    ("ring, fsdp 16, Pallas", B16, "v5e:16x16", (PALLAS, FSDP16), "ring"),
    ('ring, remat "dots", Pallas', B16, "v5e:16x16", (PALLAS, DOTS), "ring"),
    ("every regulariser, Pallas", ALL, "v5e:16x16", (PALLAS,), "ring"),
    ("So400m, **the default**: ring, fsdp 16", SO400M, "v5e:16x16", (), "ring"),
    ("So400m, ring, replicated", SO400M, "v5e:16x16", (REPLICATED,), "ring"),
    ("So400m, dense, fsdp 16", SO400M, "v5e:16x16", (), "global"),
    ("So400m, ring, fsdp 16, Pallas", SO400M, "v5e:16x16", (PALLAS,), "ring"),
    ("B/16, ring, replicated", B16, "v4:4x4x8", (), "ring"),
    ("B/16, ring, fsdp 16", B16, "v4:4x4x8", (FSDP16,), "ring"),
    ("B/16, dense, replicated", B16, "v4:4x4x8", (), "global"),
    ("B/16, ring, replicated, Pallas", B16, "v4:4x4x8", (PALLAS,), "ring"),
    ("So400m, ring, fsdp 16", SO400M, "v4:4x4x8", (), "ring"),
    ("So400m, ring, replicated", SO400M, "v4:4x4x8", (REPLICATED,), "ring"),
    ("So400m, ring, fsdp 16, Pallas", SO400M, "v4:4x4x8", (PALLAS,), "ring"),
    ("B/16, ring, replicated", B16, "v6e:8x8", (), "ring"),
    ("B/16, ring, fsdp 8", B16, "v6e:8x8", (FSDP8,), "ring"),
    ("B/16, dense, replicated", B16, "v6e:8x8", (), "global"),
    ("B/16, ring, replicated, Pallas", B16, "v6e:8x8", (PALLAS,), "ring"),
    ("So400m, ring, fsdp 8", SO400M, "v6e:8x8", (FSDP8,), "ring"),
    ("So400m, ring, replicated", SO400M, "v6e:8x8", (REPLICATED,), "ring"),
    ("So400m, ring, fsdp 8, Pallas", SO400M, "v6e:8x8", (FSDP8, PALLAS), "ring"),
    ("So400m, ring, fsdp 8, cached in 2 parts", SO400M, "v6e:8x8", (FSDP8, *IN_TWO), "ring"),
    ("B/16, ring, replicated", B16, "h100:32", (), "ring"),
    ("B/16, ring, replicated, cuDNN", B16, "h100:32", (CUDNN,), "ring"),
    ("B/16, ring, fsdp 8, cuDNN", B16, "h100:32", (CUDNN, FSDP8), "ring"),
    ("B/16, ring in chunks of 128, cuDNN", B16, "h100:32", (CUDNN, CHUNKED.format(128)), "ring"),
    ("B/16, dense, replicated, cuDNN", B16, "h100:32", (CUDNN,), "global"),
    ("So400m, ring, fsdp 8, cuDNN", SO400M, "h100:32", (CUDNN, FSDP8), "ring"),
    ("So400m, ring, replicated, cuDNN", SO400M, "h100:32", (CUDNN, REPLICATED), "ring"),
    # Numbers above are cited in the page, so what came later stands here.
    ("every regulariser, fsdp 16, Pallas", ALL, "v5e:16x16", (PALLAS, FSDP16), "ring"),
    ("B/16, ring, fsdp 16, Pallas", B16, "v4:4x4x8", (PALLAS, FSDP16), "ring"),
    ("B/16, ring, fsdp 8, Pallas", B16, "v6e:8x8", (PALLAS, FSDP8), "ring"),
    ("B/16, ring, fsdp 16, Pallas", B16, "v5p:4x4x8", (PALLAS, FSDP16), "ring"),
    ("ring, fsdp 16, Pallas, unrolled", B16, "v5e:16x16", (PALLAS, FSDP16, UNROLLED), "ring"),
    ("every regulariser, the same", ALL, "v5e:16x16", (PALLAS, FSDP16, UNROLLED), "ring"),
    ("B/16, 256 pairs, no remat, unrolled, cuDNN", B16, "h100:1", (CUDNN, *ONE_GPU), "ring"),
    ('the same, "xla"', B16, "h100:1", ONE_GPU, "ring"),
)
TIMES = ("compute", "hbm", "links")
HEAD = (
    "chips",
    "what",
    "state and batch, GiB",
    "temporaries",
    "of which loss, MiB",
    "all",
    "PFLOP",
    "sent, MiB",
    "compute, memory, links, ms",
    "MFU, %",
    "the compiler's guess, ms",
)


def main() -> None:
    """Compiles the missing rows, saves each one, prints the table."""
    args = make_parser().parse_args()
    rows = json.loads(args.file.read_text()) if args.file.exists() else {}
    for number in args.rows or range(1, len(ROWS) + 1):
        what, config, topology, overrides, loss = ROWS[number - 1]
        words = command(config, topology, overrides, loss)
        key = " ".join(words)
        if key in rows or not topology.startswith(args.only):
            continue
        print(f"{topology} {what}", file=sys.stderr, flush=True)
        kept = (
            [] if args.programs is None else [f"--hlo={args.programs.resolve() / str(number)}.gz"]
        )
        rows[key] = compile_row([*words, *kept])
        args.file.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(make_table(rows)))


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("file", type=Path, help="JSON of the rows")
    parser.add_argument("--only", default="", help="topologies that begin so")
    parser.add_argument("--rows", type=int, nargs="+", help="these alone, in this order")
    parser.add_argument("--programs", type=Path, help="a folder")
    return parser


def command(config: str, topology: str, overrides: tuple[str, ...], loss: str) -> list[str]:
    """The arguments of `compile_plan` for a row."""
    sets = [part for override in overrides for part in ("--set", override)]
    form = ["--loss=global"] if loss == "global" else []
    return [f"--config=configs/{config}", f"--topology={topology}", *sets, *form]


def compile_row(words: list[str]) -> dict[str, Any]:
    """Returns the record of `compile_plan`, also of a step that does not fit.

    Raises:
      RuntimeError: it printed none.
    """
    line = [sys.executable, "-m", "bias_clip.cli.compile_plan", *words]
    done = subprocess.run([*line, "--json", "-"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"status {done.returncode} from: {' '.join(line)}")
    return json.loads(done.stdout) | {"jax": version("jax")}


def make_table(rows: dict[str, Any]) -> list[str]:
    """Returns the existing rows in Markdown, numbered as in `ROWS`."""
    lines = ["| | " + " | ".join(HEAD) + " |", "|" + "---|" * (len(HEAD) + 1)]
    for number, (what, config, topology, overrides, loss) in enumerate(ROWS, 1):
        record = rows.get(" ".join(command(config, topology, overrides, loss)))
        if record is not None:
            cells = [topology, what, *_cells(record)]
            lines.append(f"| {number} | " + " | ".join(cells) + " |")
    return lines


def _cells(record: dict[str, Any]) -> list[str]:
    memory = record["memory"]
    state = " + ".join(f"{memory[name]:.2f}" for name in ("parameters", "optimizer", "batch"))
    if "total" not in record:
        return [state, "**does not fit**", *[""] * (len(HEAD) - 4)]
    sent = ", ".join(f"{kind} {size / 2**20:,.0f}" for kind, size in record["sent bytes"].items())
    seconds, guess = record["seconds"], record["compiler's seconds"]
    fits = "" if record["fits"] else " (**does not fit**)"
    return [
        state,
        f"{memory['loss'] + memory['activations']:.2f}",
        f"{1024 * memory['loss']:.1f}",
        f"{record['total']:.2f}{fits}",
        f"{record['flops'] / 1e15:.2f}",
        sent,
        ", ".join(f"{1e3 * seconds[name]:.0f}" for name in TIMES),
        f"{100 * record['mfu in turns']:.0f} to {100 * record['mfu at most']:.0f}",
        "" if guess is None else f"{1e3 * guess:.0f}",
    ]


if __name__ == "__main__":
    main()
