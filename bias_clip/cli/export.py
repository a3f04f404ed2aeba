"""Writes a run, or a published checkpoint, as a folder that other libraries load.

    bias-clip export --from runs/emoji --layout hugging_face --out exports/emoji

The folder holds weights, configuration, preprocessing, tokenizer files, and a README.md that states
data, balancing, measured quality and bias. Whatever the layout cannot say is refused by name. A
published checkpoint is a path, a bucket, or hf://owner/name, in any layout that this package reads.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, run_tool

LAYOUTS = ("hugging_face", "open_clip", "big_vision")
PARTS = ("preprocessing", "tokenizer")


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and writes the folder."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Writes the folder, and says what its user should know.

    Raises:
      ValueError: there is neither a run nor a checkpoint, `--out` is not empty, or the layout cannot
        say something of the model.
    """
    from bias_clip.cli.shared.export_sources import exported_checkpoint, exported_run
    from bias_clip.core.storage import is_run
    from bias_clip.pretrained.exports.export_folder import export_folder

    if len(args.paths) > 1:
        raise ValueError(
            f"got {len(args.paths)} stages after --from; expected one model. No layout holds several towers "
            "side by side, and one wide tower would normalise over all stages' features and attend across "
            "them, which changes the model. Export each stage, and join their features where they are "
            "used, as `bias-clip embed --concat` does."
        )
    (path,) = args.paths
    # A run names its own tokenizer, and only a run has steps: the other flag is refused in each case.
    if is_run(path):
        if args.tokenizer is not None:
            raise ValueError("got --tokenizer, but the config of a run names its own.")
        model = exported_run(path, args.step)
    elif args.step is not None:
        raise ValueError(f"got --step, but {path} is not a run; only runs have steps.")
    else:
        model = exported_checkpoint(path, tokenizer=args.tokenizer)
    for note in export_folder(model, args.out, layout=args.layout, leave_out=args.leave_out):
        print(f"note: {note}")
    print(args.out)


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--from",
        dest="paths",
        nargs="+",
        required=True,
        metavar="PATH",
        help="the workdir of a run, or a published checkpoint; one, because no layout holds several stages",
    )
    add("--step", type=int, metavar="N", help="of the run's checkpoint; the newest unless given")
    add("--tokenizer", metavar="FILE", help="of a checkpoint that has none beside its weights")
    add("--layout", choices=LAYOUTS, required=True, help="whose files are written")
    add("--out", type=Path, required=True, metavar="DIR", help="empty, or not there yet")
    add(
        "--leave-out",
        nargs="+",
        choices=PARTS,
        default=[],
        help="what is not written, where the layout cannot say it; the README says so",
    )
    return parser


if __name__ == "__main__":
    main()
