"""Runs `bias_clip.cli.sweep`, from a checkout."""

from bias_clip.cli.sweep import main

if __name__ == "__main__":
    main()
