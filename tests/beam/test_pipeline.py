"""The pipeline on the local runner; in an environment with Beam:

python -m pip install -e ".[beam]" pytest beartype absl-py && python -m pytest tests/beam
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.cli import beam_annotate as tool
from bias_clip.curation.beam import annotate_files
from bias_clip.curation.counts_file import counts_to_bytes, read_counts
from bias_clip.data.tables import read_table
from tests.curation.samples import FIELDS, PLAN, annotated, counted, records


def run(folder, pattern, num_shards):
    with beam.Pipeline(
        options=beam.options.pipeline_options.PipelineOptions(["--runner=DirectRunner"])
    ) as pipeline:
        annotate_files(
            pipeline,
            str(folder / pattern),
            str(folder / "out"),
            PLAN,
            fields=FIELDS,
            num_shards=num_shards,
        )
    return folder / "out"


def write_json(folder, parts):
    for i, part in enumerate(parts):
        lines = "".join(json.dumps(record) + "\n" for record in part)
        (folder / f"part{i}.jsonl").write_text(lines)


def write_parquet(folder, parts):
    for i, part in enumerate(parts):
        pq.write_table(pa.Table.from_pylist(part), folder / f"part{i}.parquet", row_group_size=7)


@pytest.mark.parametrize(
    ("write", "pattern", "num_files", "num_shards"),
    [
        (write_json, "*.jsonl", 1, 1),
        (write_json, "*.jsonl", 3, 4),
        (write_parquet, "*.parquet", 2, 3),
    ],
)
def test_tables_and_counts_are_those_of_one_process(
    tmp_path, write, pattern, num_files, num_shards
):
    given = records(60)
    write(tmp_path, [given[i::num_files] for i in range(num_files)])
    out = run(tmp_path, pattern, num_shards)
    table, names = counted(given)
    assert (out / "counts.parquet").read_bytes() == counts_to_bytes(table, names)
    shards = sorted(out.glob("annotations-*.parquet"))
    assert len(shards) == num_shards
    parts = [read_table(path, kind="annotations").columns for path in shards]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["id"])
    for name, values in annotated(given).items():
        np.testing.assert_array_equal(whole[name][order], values)
    assert not list(out.glob("*.partial"))


def test_an_id_in_two_files_is_refused(tmp_path):
    write_json(tmp_path, [records(5), records(3)])
    with pytest.raises(Exception, match="ids come twice"):
        run(tmp_path, "*.jsonl", 2)
    assert not (tmp_path / "out" / "counts.parquet").exists()


def test_the_tool_runs_from_the_command_line(tmp_path):
    write_json(tmp_path, [records(20)])
    line = ["--input", str(tmp_path / "*.jsonl"), "--out", str(tmp_path / "out"), "--shards", "2"]
    command = [sys.executable, "-m", tool.__name__, *line, "--proxies", "--runner=DirectRunner"]
    root = {"PYTHONPATH": str(Path(tool.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **root})
    assert done.returncode == 0, done.stderr
    assert read_counts(tmp_path / "out" / "counts.parquet").table.counts.sum() == 20
