"""Runs `bias_clip.cli.audit`, from a checkout."""

from bias_clip.cli.audit import main

if __name__ == "__main__":
    main()
