"""Runs `bias_clip.cli.curate.filter`, from a checkout."""

from bias_clip.cli.curate.filter import main

if __name__ == "__main__":
    main()
