"""Runs `bias_clip.cli.cluster`, from a checkout."""

from bias_clip.cli.cluster import main

if __name__ == "__main__":
    main()
