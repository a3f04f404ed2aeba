"""Runs `bias_clip.cli.launch`, from a checkout."""

import sys

from bias_clip.cli.launch.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
