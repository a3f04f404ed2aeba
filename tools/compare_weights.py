"""Runs `bias_clip.cli.curate.compare_weights`, from a checkout."""

from bias_clip.cli.curate.compare_weights import main

if __name__ == "__main__":
    main()
