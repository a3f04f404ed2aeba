"""Runs `bias_clip.cli.balance`, from a checkout."""

from bias_clip.cli.balance import main

if __name__ == "__main__":
    main()
