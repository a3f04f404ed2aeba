"""Writes the page of a run anew, finished or not: loads nothing, needs no accelerator.

python tools/report.py runs/emoji
"""

import argparse
import sys
from pathlib import Path

from bias_clip.core.storage import NotSavedError
from bias_clip.report.run_page import write_report


def main(argv: list[str] | None = None) -> None:
    """Writes `report.html` into the workdir and prints its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("workdir", type=Path, help="folder of the run, as given to training")
    args = parser.parse_args(argv)
    try:
        print(write_report(args.workdir))
    except (ValueError, NotSavedError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
