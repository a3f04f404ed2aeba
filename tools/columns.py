"""Runs `bias_clip.cli.curate.columns`, from a checkout."""

from bias_clip.cli.curate.columns import main

if __name__ == "__main__":
    main()
