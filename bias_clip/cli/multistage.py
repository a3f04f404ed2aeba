"""Multistage contrastive learning (MCL) from one line: train, embed, cluster, and again within cells.

    bias-clip multistage --config=configs/emoji_stages.py --workdir=runs/mcl --stages 3 --k 4 \\
        --set 'total=9_000 examples'

Stage 0 is a plain run. Each later stage draws its negatives from the cells of all earlier stages'
clusters together, so that it must learn what those have not. Of stage j there is, under `stage<j>`:

    run/                 the workdir of `python -m bias_clip.train --config=<config>:<j>`
    embeddings/          of the training data: bias-clip embed
    image.parquet        their clusters (and text.parquet): bias-clip cluster
    cells.parquet        the cells of the stages 0 to j, which stage j + 1 trains on

and beside each its log. Every part is whole or not there: killed at any moment, the same line goes on
and ends with the same models. Other arguments or another config need another workdir.

The config is called with the stage after the colon, "0" or "1" and up; a later stage must set
`config.data.cells` to a dict with a `table`, and for `--init base` (every stage starts from stage 0's
weights, as in the authors' code; the default, for docs/stages.md found it far better) or `warm` (from those
of the stage before) it is called with "1,init" and must set `config.init_from` to a dict with a `path`. All
stages have the same seed: from scratch they start from the same random weights, and differ by their batches alone.

With `--start CHECKPOINT`, a published one, the config is called with "0,CHECKPOINT", "1,CHECKPOINT" or
"1,init,CHECKPOINT", as configs/finetune_stages.py takes it: stage 0 starts from it, and with `--init scratch`
every stage does.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.commands import Step, Stopped, call, check_same, hold, say, write_json
from bias_clip.cli.shared.flags import Parser, add_set, read_set, run_tool
from bias_clip.core.json_object import read_object
from bias_clip.core.launching import RUN_AGAIN

MODALITIES = {"image": ("image",), "text": ("text",), "both": ("text", "image")}
INITS = ("scratch", "base", "warm")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the stages, or what is left of them."""
    run_tool(make_parser(), work, argv, errors=(RuntimeError,))


def work(args: argparse.Namespace) -> int:
    """Runs the stages; returns the exit status.

    Raises:
      ValueError: flags or a config that do not go together, or a workdir of another line.
      RuntimeError: a command failed.
    """
    from bias_clip.core.storage import check_folder

    check_folder(args.workdir)
    # Absolute, because paths below it go into configs of later stages.
    args.workdir = args.workdir.resolve()
    _check(args)
    args.workdir.mkdir(parents=True, exist_ok=True)
    try:
        # Locked before the plan is compared: two lines started at once must not both claim the folder.
        with hold(args.workdir) as lock:
            check_same(args.workdir, describe_plan(args))
            run_stages(args, lock)
    except Stopped as stopped:
        print(f"{stopped} Run the same line again to continue.", file=sys.stderr)
        return RUN_AGAIN
    print("\n".join(str(args.workdir / f"stage{j}" / "run") for j in range(args.stages)))
    return 0


def run_stages(args: argparse.Namespace, lock: int) -> None:
    """Makes what is missing of every stage, in order, and the manifest last.

    Raises:
      RuntimeError: a command failed; says where its log is.
      Stopped: a signal came.
    """
    from bias_clip.data.stream.cells import write_cells
    from bias_clip.data.tables import manifest_path

    words = MODALITIES[args.cluster]
    for stage in range(args.stages):
        # Steps that are done return at once, so that the same line goes on anywhere.
        call(train_step(args, stage), lock)
        # Nothing follows the last stage: its cells would not be used.
        if stage == args.stages - 1:
            break
        for step in cluster_steps(args, stage):
            call(step, lock)
        cells = args.workdir / f"stage{stage}" / "cells.parquet"
        # The manifest is written last, so that cells without one are made again.
        if not manifest_path(cells).exists():
            folders = [args.workdir / f"stage{j}" for j in range(stage + 1)]
            tables = [[folder / f"{word}.parquet" for word in words] for folder in folders]
            found = write_cells(cells, tables, k=args.k, modalities=list(words))
            say(f"stage {stage}: {len(found['tuples'])} cells")
    names = [f"stage{j}/run" for j in range(args.stages)]
    write_json(args.workdir / "manifest.json", {"kind": "stages", "runs": names})


def train_step(args: argparse.Namespace, stage: int) -> Step:
    """The run of a stage."""
    folder = args.workdir / f"stage{stage}"
    command = [sys.executable, "-m", "bias_clip.train", f"--workdir={folder / 'run'}"]
    command += [f"--config={args.config}:{_argument(args, stage)}", f"--config.seed={args.seed}"]
    if stage:
        table = args.workdir / f"stage{stage - 1}" / "cells.parquet"
        command.append(f"--config.data.cells.table={table}")
    if stage and args.init != "scratch":
        start = args.workdir / f"stage{0 if args.init == 'base' else stage - 1}" / "run"
        command.append(f"--config.init_from.path={start}")
    # Last, so that the user's overrides win.
    command += [f"--config.{override}" for override in args.set]
    return Step(command, folder / "run" / "report.html", folder / "run.log")


def cluster_steps(args: argparse.Namespace, stage: int) -> Iterator[Step]:
    """Embedding and clustering after the run of a stage, which must have begun: it has the config."""
    folder = args.workdir / f"stage{stage}"
    words, rows = MODALITIES[args.cluster], folder / "embeddings"
    # The run's own config has what --set changed.
    config = read_object(folder / "run" / "config.json", advice="restore it from a copy")
    source = dict(config["data"]["source"])
    # repr, because `read_value` reads Python literals.
    given = [source.pop("name"), *(f"{key}={value!r}" for key, value in source.items())]
    embed = [
        sys.executable,
        "-m",
        "bias_clip.cli.embed",
        "--workdir",
        str(folder / "run"),
        "--source",
        *given,
    ]
    embed += ["--out", str(rows), "--modalities", *words]
    yield Step(embed, rows / "manifest.json", folder / "embed.log")
    for word in words:
        table = folder / f"{word}.parquet"
        command = [
            sys.executable,
            "-m",
            "bias_clip.cli.cluster",
            "--embeddings",
            str(rows),
            "--modality",
            word,
        ]
        command += ["--k", str(args.k), "--seed", str(args.seed), "--out", str(table)]
        yield Step(command, Path(f"{table}.json"), folder / f"{word}.log")


def describe_plan(args: argparse.Namespace) -> dict[str, Any]:
    """What the models follow from: the arguments, and the configs of a first and a later stage."""
    from bias_clip.train.config_io import load_config, to_plain

    names = ["stages", "k", "cluster", "init", "seed", "set", *(["start"] if args.start else [])]
    path = Path(args.config)
    configs = {
        f"config of stage {stage}": to_plain(load_config(path, _argument(args, stage)))
        # All later stages share one config, except for paths that follow from the stage.
        for stage in range(min(args.stages, 2))
    }
    if args.stages > 1:
        _check_later(configs["config of stage 1"], args)
    return {**{name: getattr(args, name) for name in names}, **configs}


def _argument(args: argparse.Namespace, stage: int) -> str:
    """What stands after the config's colon."""
    init = ["init"] if stage and args.init != "scratch" else []
    return ",".join([str(min(stage, 1)), *init, *([args.start] if args.start else [])])


def _check(args: argparse.Namespace) -> None:
    if args.stages < 1 or args.k < 2:
        raise ValueError(
            f"got --stages {args.stages} --k {args.k}; expected at least 1 stage, of 2 clusters."
        )
    read_set(args.set)  # raises for what is not key=value
    if ":" in args.config:
        raise ValueError(
            f"got --config {args.config}; what follows the colon is set here, leave it."
        )


def _check_later(config: Mapping[str, Any], args: argparse.Namespace) -> None:
    if not isinstance(config["data"].get("cells"), dict):
        raise ValueError(
            f"{args.config}: config.data.cells is not a dict when the config is called with "
            f"{_argument(args, 1)!r}; expected at least dict(table='')."
        )
    if args.init != "scratch" and not isinstance(config.get("init_from"), dict):
        raise ValueError(
            f"{args.config}: config.init_from of stage 1 is not a dict, as --init {args.init} needs; "
            "expected dict(path=''), or use --init scratch."
        )


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="called with the stage, see above")
    add("--workdir", type=Path, required=True, metavar="DIR", help="folder of all the stages")
    add("--stages", type=int, default=3, help="models in all, the plain one among them")
    add("--k", type=int, default=4, help="clusters of a stage, of each modality")
    add("--cluster", choices=sorted(MODALITIES), default="image", help="what is clustered")
    add("--init", choices=INITS, default="base", help="of the stages after the first, see above")
    add("--start", metavar="CHECKPOINT", help="a published checkpoint that stage 0 starts from")
    add("--seed", type=int, default=0, help="of all stages and clusterings")
    add_set(parser)
    return parser


if __name__ == "__main__":
    main()
