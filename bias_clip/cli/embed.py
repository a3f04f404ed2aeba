"""Embeds a data set with a run or a published checkpoint, on all devices, as a directory of shards.

    bias-clip embed --workdir runs/emoji --source emoji split=train --out runs/emoji/train_z

The embeddings are of the image (the first, where there are several) and of the first caption of each
record, as `bias_clip/data/tables/embeddings.py` describes. Several workdirs are one model, whose
features are joined as --concat says. Interrupted, the same command goes on after the last whole
shard. Records that cannot be read stop it, unless --max-broken allows as many; the manifest names
them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bias_clip.cli.shared.choices import DTYPES, FORMS, MODALITIES
from bias_clip.cli.shared.flags import (
    Parser,
    add_source,
    add_workdirs,
    print_notes,
    read_call,
    read_changes,
    run_tool,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the embeddings."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Embeds, and says what was written and which records were not."""
    manifest = embed(args)
    # From the manifest, so that a run that had been finished says it again.
    for row, reason in manifest["broken"].items():
        print(f"no row for record {row}: {reason}")
    what = " and ".join(manifest["modalities"])
    print(f"{args.out}: {what} of {manifest['rows']:,} examples, {manifest['width']} numbers each")


def embed(args: argparse.Namespace) -> dict[str, Any]:
    """Embeds what the command line asks for, and returns the manifest.

    Raises:
      ValueError: neither a run nor a checkpoint, an unknown source, an `out` of other embeddings.
    """
    from tqdm import tqdm

    from bias_clip.data.sources import make_source
    from bias_clip.data.tables.embeddings_writer import write_embeddings
    from bias_clip.evals.embed_rows import make_embed_rows
    from bias_clip.train.workdir.load_model import load_models
    from bias_clip.train.workdir.load_run import as_stage, identity

    name, arguments = read_call(args.source, flag="--source")
    words = {"name": name, **arguments}
    source = make_source(**words)
    runs = load_models(args.workdir, args.step, changes=read_changes(args.set))
    print_notes(runs)
    # The batch is that of all devices: each takes its part.
    stages = [as_stage(run, args.batch_size) for run in runs]
    with tqdm(total=len(source), unit=" examples", disable=None) as bar:
        return write_embeddings(
            args.out,
            make_embed_rows(
                source,
                stages,
                form=args.concat,
                modalities=args.modalities,
                batch_size=args.batch_size,
                on_rows=bar.update,
            ),
            examples=len(source),
            # What identifies the embeddings; paths are in the notes, so that a checkpoint may move.
            about={
                "source": words,
                "models": [identity(run) for run in runs],
                "concat": args.concat,
                "modalities": args.modalities,
            },
            notes=_notes(runs),
            dtype=args.dtype,
            shard_rows=args.shard_rows,
            max_broken=args.max_broken,
            on_kept=bar.update,
        )


def _notes(runs: Sequence[Any]) -> dict[str, Any]:
    """Where each checkpoint lay, and what was overridden."""
    paths = [
        str(run.workdir / "checkpoints" / str(run.step))
        if run.origin is None
        else run.origin["path"]
        for run in runs
    ]
    said = {str(run.workdir): list(run.notes) for run in runs if run.notes}
    return {"checkpoints": paths, **({"models": said} if said else {})}


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add_workdirs(parser)
    add_source(parser)
    add("--concat", choices=FORMS, default="raw", help="how the features of several are joined")
    add("--out", type=Path, required=True, help="the directory to write")
    add(
        "--modalities",
        nargs="+",
        choices=MODALITIES,
        default=list(MODALITIES),
        help="what is embedded",
    )
    add("--batch-size", type=int, default=256, help="over all devices")
    add("--shard-rows", type=int, default=8192, help="what an interruption may cost")
    add("--dtype", choices=DTYPES, default="float32", help="of the matrices on disk")
    add("--max-broken", type=int, default=0, help="records that may be unreadable")
    return parser


if __name__ == "__main__":
    main()
