"""Runs `bias_clip.cli.curate.measure`, from a checkout."""

from bias_clip.cli.curate.measure import main

if __name__ == "__main__":
    main()
