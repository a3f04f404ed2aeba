"""Runs `bias_clip.cli.export`, from a checkout."""

from bias_clip.cli.export import main

if __name__ == "__main__":
    main()
