"""Runs `bias_clip.cli.curate.priors`, from a checkout."""

from bias_clip.cli.curate.priors import main

if __name__ == "__main__":
    main()
