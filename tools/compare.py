"""Runs `bias_clip.cli.compare`, from a checkout."""

from bias_clip.cli.compare import main

if __name__ == "__main__":
    main()
