"""Runs `bias_clip.cli.report`, from a checkout."""

from bias_clip.cli.report import main

if __name__ == "__main__":
    main()
