"""A damaged table of counts is one line that names it; what is read is what was written."""

import collections
import io
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bias_clip.balancing.counts import count
from bias_clip.curation.captions import Names
from bias_clip.curation.counts_file import counts_to_bytes, read_counts

NAMES = Names(("woman", "man"), ("cook", "judge"), ("skirt",))


def content():
    rng = np.random.default_rng(0)
    attributes, labels = (rng.integers(-1, 2, (400, n)).astype(np.int8) for n in (2, 3))
    return counts_to_bytes(count(attributes, labels, rng.random(400).round(1)), NAMES)


def changed(column=None, values=None, *, meta=None, drop=()):
    """The file with another column, other names, or without some columns, whole in every other way."""
    table = pq.read_table(io.BytesIO(content())).drop_columns(list(drop))
    if column is not None:
        table = table.append_column(column, values) if column not in table.column_names else (
            table.set_column(table.column_names.index(column), column, values(table[column]))
        )  # fmt: skip
    if meta is not None:
        table = table.replace_schema_metadata({b"bias_clip": meta})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def numbers(change):
    return lambda column: pa.array(change(column.to_numpy().astype(np.float64)))


def names(**changed_names):
    return json.dumps({**NAMES._asdict(), **changed_names}).encode()


DAMAGED = {
    "empty": lambda: b"",
    "text": lambda: b"woman,man\n1,0\n",
    "cut": lambda: content()[:-9],
    "other columns": lambda: changed(drop=["cook"]),
    "one more column": lambda: changed("x", pa.array(np.zeros(len(pq.read_table(io.BytesIO(content())))))),
    "no count": lambda: changed(drop=["count"]),
    "no names": lambda: changed(meta=b""),
    "names that are no JSON": lambda: changed(meta=b"{"),
    "names that are a list": lambda: changed(meta=b"[]"),
    "names that are numbers": lambda: changed(meta=names(labels=[1, 2])),
    "one name that is a str": lambda: changed(meta=names(labels="cook")),
    "names twice": lambda: changed(meta=names(labels=["woman", "judge"])),
    "a value of 2": lambda: changed("woman", lambda c: pa.array(np.full(len(c), 2, np.int8))),
    "a value that wraps": lambda: changed("woman", lambda c: pa.array(np.full(len(c), 257))),
    "a gap": lambda: changed("man", lambda c: pa.array([None, *c.to_pylist()[1:]], pa.int8())),
    "words": lambda: changed("man", lambda c: pa.array(["yes"] * len(c))),
    "a count of 0": lambda: changed("count", lambda c: pa.array([0, *c.to_pylist()[1:]])),
    "counts that are floats": lambda: changed("count", numbers(lambda x: x)),
    "a negative utility": lambda: changed("utility", numbers(lambda x: -x - 1)),
    "a utility that is NaN": lambda: changed("utility", numbers(lambda x: x * np.nan)),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_table_of_counts_is_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / "counts.parquet"
    path.write_bytes(DAMAGED[kind]())
    with pytest.raises(
        ValueError, match=r"counts\.parquet cannot be read: .*not a table of counts"
    ) as caught:
        read_counts(path)
    assert "\n" not in str(caught.value)


def test_no_table_of_counts_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"there is no table of counts .*c\.parquet"):
        read_counts(tmp_path / "c.parquet")


def test_bits_and_cuts_give_the_same_counts_or_the_one_error(tmp_path):
    rng, whole, path = random.Random(18), content(), tmp_path / "counts.parquet"
    path.write_bytes(whole)
    expected, outcomes = read_counts(path), collections.Counter()
    for _ in range(600):
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 16))):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            del raw[rng.randrange(len(raw)) :]
        path.write_bytes(raw)
        try:
            found = read_counts(path)
        except ValueError as error:
            outcomes["refused" if str(path) in str(error) else "not named"] += 1
            continue
        outcomes["read"] += 1
        # A name in which a bit changed is another name; no sum of Parquet covers its own header.
        for a, b in zip(found.table, expected.table, strict=True):
            np.testing.assert_array_equal(a, b)
    assert outcomes["refused"] > 300
    assert not outcomes["not named"]
