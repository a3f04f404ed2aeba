"""Runs `bias_clip.cli.interpolate`, from a checkout."""

from bias_clip.cli.interpolate import main

if __name__ == "__main__":
    main()
