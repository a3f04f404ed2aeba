"""`python -m bias_clip.train --config=configs/emoji.py --workdir=runs/emoji`."""

import sys
from collections.abc import Callable, Sequence

from bias_clip.train.early_stop import stops_early
from bias_clip.train.hosts.log import settle_log
from bias_clip.train.options.command_line import parse


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, then loads what trains."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(words)
    try:
        with stops_early():
            _load()(arguments, words)
    finally:
        settle_log()


def _load() -> Callable[..., None]:
    try:
        from bias_clip.train.command import run
    except ModuleNotFoundError as error:
        if (error.name or "bias_clip").startswith("bias_clip"):
            raise  # ours: a broken installation, whose stack says more
        sys.exit(
            f"error: training needs {error.name}, which is not installed: "
            "pip install 'bias_clip[train]'"
        )
    return run


if __name__ == "__main__":
    main()
