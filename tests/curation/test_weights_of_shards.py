"""Balancing on the pipeline's counts: the weights of shards are those of the whole table."""

import numpy as np
import pytest

from bias_clip.balancing import count
from bias_clip.cli import balance as tool
from bias_clip.curation.captions import Names
from bias_clip.curation.counts_file import counts_to_bytes
from bias_clip.data.stream.draws import draw_rows, read_weights
from bias_clip.data.tables import write_table

from .test_balance_tool import KINDS, annotate, people

NAMES = Names(("man",), ("nurse", "pilot"), ("cockpit",))


@pytest.fixture
def folder(tmp_path):
    """The annotations as one table, and as the pipeline leaves them: three shards and their counts."""
    columns = people()
    annotate(tmp_path, columns)
    (tmp_path / "beam").mkdir()
    for i in range(3):
        part = {name: values[i::3] for name, values in columns.items()}
        manifest = {"kind": "annotations", **KINDS, "source": {"name": "people"}}
        write_table(tmp_path / "beam" / f"annotations-{i:05d}-of-00003.parquet", part, manifest)
    labels = np.stack([columns[name] for name in (*NAMES.labels, *NAMES.proxies)], axis=1)
    data = counts_to_bytes(count(columns["man"][:, None], labels), NAMES)
    (tmp_path / "beam" / "counts.parquet").write_bytes(data)
    return tmp_path


def balance(folder, *words):
    given = ["--annotations", folder / "beam", "--counts", folder / "beam" / "counts.parquet"]
    tool.main([str(word) for word in (*given, "--out", folder / "out", *words)])


@pytest.mark.parametrize("words", [(), ("--labels", "pilot", "--no-proxies")])
def test_weights_and_draws_are_those_of_one_table(folder, words):
    balance(folder, *words)
    one = ["--annotations", folder / "annotations.parquet", "--out", folder / "w.parquet"]
    tool.main([str(word) for word in (*one, *words)])
    ids = people()["id"]
    shards, whole = (read_weights(str(folder / name), ids) for name in ("out", "w.parquet"))
    np.testing.assert_allclose(shards.weights, whole.weights, atol=1e-12)
    np.testing.assert_array_equal(draw_rows(shards, 5, None), draw_rows(whole, 5, None))


def test_shards_that_do_not_belong_together_are_refused(folder):
    with pytest.raises(SystemExit, match="drop them"):
        balance(folder, "--utility", "x")
    balance(folder)
    other = folder / "out" / "weights-00001-of-00003.parquet"
    write_table(other, {"id": np.array(["a"]), "weight": np.ones(1)}, {"kind": "weights"})
    with pytest.raises(ValueError, match="of 2 solves"):
        read_weights(str(folder / "out"), people()["id"])
    next((folder / "beam").glob("annotations-*.parquet")).unlink()
    with pytest.raises(SystemExit, match="the 2 shards have 2000"):
        balance(folder)
