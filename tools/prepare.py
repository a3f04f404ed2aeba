"""Runs `bias_clip.cli.curate.prepare`, from a checkout."""

from bias_clip.cli.curate.prepare import main

if __name__ == "__main__":
    main()
