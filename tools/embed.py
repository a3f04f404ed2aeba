"""Runs `bias_clip.cli.embed`, from a checkout."""

from bias_clip.cli.embed import main

if __name__ == "__main__":
    main()
