"""Runs `bias_clip.cli.evaluate`, from a checkout."""

from bias_clip.cli.evaluate import main

if __name__ == "__main__":
    main()
