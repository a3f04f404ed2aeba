"""Lists the example configs that are installed with the package, and copies them to a folder.

    bias-clip configs --out configs

The copies are yours to change: train with `bias-clip train --config=configs/emoji.py --workdir=runs/emoji`.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from bias_clip.cli.shared.flags import Parser, run_tool

_PACKAGE = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> None:
    """Lists, or copies."""
    run_tool(make_parser(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Prints the path of each config, that of the copy if there is one.

    Raises:
      ValueError: a file of that name is there already, or the folder has another name.
    """
    if args.out is not None and args.out.name != "configs":
        raise ValueError(
            f"got --out {args.out}; name it configs: the examples import each other so."
        )
    for path in find_configs():
        print(path if args.out is None else _copy(path, args.out))


def find_configs() -> list[Path]:
    """Returns the example configs: of the installed package, or of the checkout it runs from."""
    installed = _PACKAGE / "configs"
    # A wheel has the configs inside the package, a checkout beside it.
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


def make_parser() -> Parser:
    """Returns the tool's parser."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="copy them there; a folder named configs"
    )
    return parser


def _copy(path: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / path.name
    # Never over a file: the copies are there to be changed.
    if copy.exists():
        raise ValueError(f"there is a file {copy} already; give --out another folder.")
    return Path(shutil.copyfile(path, copy))


if __name__ == "__main__":
    main()
