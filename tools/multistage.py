"""Runs `bias_clip.cli.multistage`, from a checkout."""

from bias_clip.cli.multistage import main

if __name__ == "__main__":
    main()
