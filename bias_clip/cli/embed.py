"""Embeds a data set with a trained model, on all devices, as a directory of shards.

    python tools/embed.py --workdir runs/emoji --source emoji split=train --out runs/emoji/train_z

The embeddings are of the picture (the first, where there are several) and of the first caption of
each record, as `bias_clip/data/tables/embeddings.py` describes. Several --workdir are one model, whose
features are joined as `--concat` says. Interrupted, the same command goes on after the last whole
shard. Records that cannot be read stop it, unless --max-broken allows as many; the manifest names
them.
"""

import argparse
import ast
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bias_clip.data.sources import make_source
from bias_clip.data.tables.embeddings import MODALITIES
from bias_clip.data.tables.embeddings_writer import DTYPES, write_embeddings
from bias_clip.evals.concat import FORMS
from bias_clip.evals.embed_rows import make_embed_rows
from bias_clip.train.workdir.load_run import as_stage, identity, load_stages


def main(argv: list[str] | None = None) -> None:
    """Parses the command line and writes the embeddings."""
    args = _parser().parse_args(argv)
    try:
        manifest = embed(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for row, reason in manifest["broken"].items():
        print(f"no row for record {row}: {reason}")
    what = " and ".join(manifest["modalities"])
    print(f"{args.out}: {what} of {manifest['rows']:,} examples, {manifest['width']} numbers each")


def embed(args: argparse.Namespace) -> dict[str, Any]:
    """Embeds what the command line asks for, and returns the manifest.

    Raises:
      ValueError: no run or checkpoint, an unknown source, an `out` of other embeddings.
    """
    words = source_words(args.source)
    source = make_source(**words)
    runs = load_stages(args.workdir, args.step)
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
            about={
                "source": words,
                "models": [identity(run) for run in runs],
                "concat": args.concat,
                "modalities": args.modalities,
            },
            notes={
                "checkpoints": [str(run.workdir / "checkpoints" / str(run.step)) for run in runs]
            },
            dtype=args.dtype,
            shard_rows=args.shard_rows,
            max_broken=args.max_broken,
            on_kept=bar.update,
        )


def source_words(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of `make_source`: the first word is its name, the others are key=value.

    Raises:
      ValueError: a word without "=", or a key that comes twice.
    """
    arguments: dict[str, Any] = {"name": words[0]}
    for word in words[1:]:
        key, equals, text = word.partition("=")
        if not (key and equals) or key in arguments:
            raise ValueError(f"--source: got {word!r}, expected key=value, each key once.")
        arguments[key] = _literal(text)
    return arguments


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = functools.partial(parser.add_argument)
    add("--workdir", type=Path, action="append", required=True, help="of a run; may be repeated")
    add("--step", type=int, action="append", default=[], help="the newest; once a workdir, or not")
    add("--concat", choices=FORMS, default="raw", help="how the features of several are joined")
    add("--source", nargs="+", required=True, metavar="WORD", help="its name, then key=value")
    add("--out", type=Path, required=True, help="the directory to write")
    add("--modalities", nargs="+", choices=MODALITIES, default=list(MODALITIES))
    add("--batch-size", type=int, default=256, help="over all devices")
    add("--shard-rows", type=int, default=8192, help="what an interruption may cost")
    add("--dtype", choices=DTYPES, default="float32", help="of the matrices on disk")
    add("--max-broken", type=int, default=0, help="records that may be unreadable")
    return parser


if __name__ == "__main__":
    main()
