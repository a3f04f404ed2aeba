"""Runs `bias_clip.cli.compile_plan`, from a checkout."""

from bias_clip.cli.compile_plan import main

if __name__ == "__main__":
    main()
