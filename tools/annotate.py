"""Runs `bias_clip.cli.annotate`, from a checkout."""

from bias_clip.cli.annotate import main

if __name__ == "__main__":
    main()
