"""Runs `bias_clip.cli.exposure_bias`, from a checkout."""

from bias_clip.cli.exposure_bias import main

if __name__ == "__main__":
    main()
