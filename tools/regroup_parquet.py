"""Runs `bias_clip.cli.curate.regroup_parquet`, from a checkout."""

from bias_clip.cli.curate.regroup_parquet import main

if __name__ == "__main__":
    main()
