"""Runs `bias_clip.cli.beam_annotate`, from a checkout."""

from bias_clip.cli.beam_annotate import main

if __name__ == "__main__":
    main()
