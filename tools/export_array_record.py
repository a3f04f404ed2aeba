"""Runs `bias_clip.cli.export_array_record`, from a checkout."""

from bias_clip.cli.export_array_record import main

if __name__ == "__main__":
    main()
