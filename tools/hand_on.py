"""Runs `bias_clip.cli.curate.hand_on`, from a checkout."""

from bias_clip.cli.curate.hand_on import main

if __name__ == "__main__":
    main()
