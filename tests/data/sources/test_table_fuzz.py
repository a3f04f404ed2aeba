"""Damaged tables of every form: records, or an error that names the file; never another error or a hang."""

import gzip
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.data.image import encode_png
from bias_clip.data.records import read_record
from bias_clip.data.sources import column, make_source
from tests.fuzzing import SEED, Outcomes, count_of, damage

ROWS = 12


def rows():
    texts = [
        'a "woman"',
        "a man, at work",
        "eine Frau\nmit Hund",
        "犬",
        "",
        "a\u2028b",
        "wo\u00admen",
    ]
    return [
        {
            "id": f"r{i}",
            "image": "a.png",
            "caption": texts[i % len(texts)],
            "label": None if i == 3 else i * 10**15,
            "share": i / 7,
        }
        for i in range(ROWS)
    ]


def separated(mark):
    lines = [mark.join(rows()[0])]
    for row in rows():
        cells = ["" if value is None else str(value) for value in row.values()]
        lines.append(mark.join('"' + cell.replace('"', '""') + '"' for cell in cells))
    return "\n".join(lines).encode()


def parquet(**options):
    png = encode_png(np.zeros((8, 8, 3), np.uint8))
    table = pa.Table.from_pylist([{**row, "image": png} for row in rows()])
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=5, **options)
    return stream.getvalue()


def arrow_file():
    stream = io.BytesIO()
    table = pa.Table.from_pylist(rows())
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


BASES = {
    "t.csv": lambda: separated(","),
    "t.tsv": lambda: separated("\t"),
    "t.json": lambda: json.dumps(rows()).encode(),
    "c.json": lambda: json.dumps({k: [row[k] for row in rows()] for k in rows()[0]}).encode(),
    "t.jsonl": lambda: b"\n".join(json.dumps(row).encode() for row in rows()),
    "t.csv.gz": lambda: gzip.compress(separated(",")),
    "t.parquet": lambda: parquet(),
    "z.parquet": lambda: parquet(compression="zstd", write_page_checksum=True),
    "d.arrow": arrow_file,
}


def read_all(path):
    """Every record and every column; bad records are the ValueErrors of single reads."""
    name = "parquet" if path.suffix in (".parquet", ".arrow") else "table"
    source = make_source(name=name, path=str(path))
    bad = 0
    for i in range(min(len(source), 2 * ROWS)):
        try:
            record = read_record(source, i)
            assert isinstance(record["captions"], tuple)
        except ValueError:
            bad += 1
    return len(source), bad, column(source, "id")


@pytest.mark.slow
def test_damaged_tables_are_read_or_refused_by_name(tmp_path, capsys):
    rng, outcomes = random.Random(SEED), Outcomes("tables")
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    bases = {name: make() for name, make in BASES.items()}
    for name, content in bases.items():
        (tmp_path / name).write_bytes(content)
        assert read_all(tmp_path / name)[0] == ROWS
    for _ in range(count_of(3_000)):
        name = rng.choice(list(bases))
        path = tmp_path / name
        path.write_bytes(damage(bases[name], rng))
        outcomes.note(name, [name.split(".")[0]], lambda path=path: read_all(path))
    outcomes.check(capsys)
    assert all(outcomes.counts[f"{name} refused"] for name in bases)
    assert all(outcomes.counts[f"{name} taken"] for name in bases if not name.endswith(".gz"))
