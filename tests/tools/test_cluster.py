"""Cells from embeddings: the tool end to end, in memory and streaming, and what it refuses."""

import json

import numpy as np
import pytest

from bias_clip.cli import cluster as tool
from bias_clip.cli.shared import cluster_rows
from bias_clip.data.tables import file_sha256, join, manifest_path, read_table
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings
from tests.stages.test_kmeans import blobs

ROWS = 203
X = blobs(rows=ROWS, k=4)


def embed(folder, x=X, modality="image"):
    part = lambda rows: Shard([f"r{i}" for i in rows], {modality: x[list(rows)]}, {})  # noqa: E731
    about = {"checkpoint": "runs/x/checkpoints/8"}
    write_embeddings(folder / "z", part, examples=len(x), about=about, shard_rows=64)


def run_tool(folder, *words, out="cells.parquet", k=4):
    given = ("--embeddings", folder / "z", "--out", folder / out, "--k", k)
    tool.main([str(word) for word in (*given, *words)])
    return read_table(folder / out, kind=cluster_rows.KIND)


def test_every_example_gets_the_nearest_of_the_written_centres(tmp_path, capsys):
    embed(tmp_path)
    table = run_tool(tmp_path, "--seed", 1, "--n-init", 2)
    manifest = table.manifest
    centres = np.load(tmp_path / manifest["centres"]["file"])
    assert manifest["centres"]["sha256"] == file_sha256(tmp_path / manifest["centres"]["file"])
    cluster = join(table, [f"r{i}" for i in range(ROWS)])["cluster"]
    distances = ((X[:, None] - centres) ** 2).sum(2)
    np.testing.assert_array_equal(cluster, distances.argmin(1))
    assert manifest["inertia"] == pytest.approx(distances.min(1).sum(), rel=1e-5)
    np.testing.assert_array_equal(manifest["counts"], np.bincount(cluster, minlength=4))
    assert (manifest["k"], manifest["seed"], manifest["modality"]) == (4, 1, "image")
    assert manifest["embeddings"]["plan"]["checkpoint"] == "runs/x/checkpoints/8"
    printed = capsys.readouterr().out
    assert f"4 clusters of {ROWS} image embeddings" in printed
    assert f"{manifest['counts'][3]:12d}" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("cells.centres.npy", "cells.parquet", "cells.parquet.json", "z")
    ]


def test_a_stream_finds_what_memory_finds(tmp_path):
    embed(tmp_path)
    start = tmp_path / "start.npy"
    np.save(start, X[:4])
    held = run_tool(tmp_path, "--init", start)
    words = ("--in-memory-rows", 10, "--chunk-rows", 50)
    read = run_tool(tmp_path, "--init", start, *words, out="stream.parquet")
    np.testing.assert_array_equal(held.columns["cluster"], read.columns["cluster"])
    for key in ("iterations", "counts"):
        assert held.manifest[key] == read.manifest[key]
    assert held.manifest["inertia"] == pytest.approx(read.manifest["inertia"], rel=1e-5)
    assert [t.manifest["method"]["form"] for t in (held, read)] == ["memory", "stream"]
    centres = tmp_path / "stream.centres.npy"
    again = run_tool(tmp_path, "--init", centres, *words, out="again.parquet")
    assert again.manifest["iterations"] == 1
    np.testing.assert_array_equal(again.columns["cluster"], read.columns["cluster"])


def test_an_interruption_leaves_no_table(tmp_path, monkeypatch):
    embed(tmp_path)
    found = cluster_rows.KMeans(
        X[:4], np.zeros(ROWS, np.int32), *np.ones(2), np.array([ROWS, 0, 0, 0])
    )
    monkeypatch.setattr(cluster_rows, "cluster", lambda *_: found)
    run_tool(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster_rows, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        run_tool(tmp_path, "--seed", 5)
    assert not manifest_path(tmp_path / "cells.parquet").exists()
    with pytest.raises(ValueError, match="is unfinished"):
        read_table(tmp_path / "cells.parquet", kind=cluster_rows.KIND)


def refused(folder, *words, **changes):
    with pytest.raises(SystemExit) as error:
        run_tool(folder, *words, **changes)
    assert not (folder / "cells.parquet").exists()
    return str(error.value)


def test_what_cannot_be_clustered_is_refused(tmp_path):
    assert "there are no embeddings" in refused(tmp_path)
    embed(tmp_path)
    assert "no embeddings of 'text'; there are ['image']" in refused(tmp_path, "--modality", "text")
    assert f"got {ROWS} rows for --k 300" in refused(tmp_path, k=300)
    assert "k: got 0" in refused(tmp_path, k=0)
    assert "there is no file" in refused(tmp_path, "--init", tmp_path / "none.npy")
    np.save(tmp_path / "start.npy", X[:4, :3])
    assert "expected floats [4, 12]" in refused(tmp_path, "--init", tmp_path / "start.npy")


@pytest.mark.parametrize("words", [(), ("--in-memory-rows", 10)])
def test_collapsed_embeddings_are_refused(tmp_path, words):
    embed(tmp_path, np.tile(X[:2], (50, 1)))
    assert "distinct rows" in refused(tmp_path, *words)


def test_rows_that_are_not_finite_are_named(tmp_path):
    embed(tmp_path)
    path = tmp_path / "z" / "image-00001.npy"
    x = np.load(path)
    x[3] = np.nan
    np.save(path, x)
    manifest = json.loads((tmp_path / "z" / "manifest.json").read_text())
    manifest["sums"][1]["image"] = file_sha256(path)  # or the shard would be refused as changed
    (tmp_path / "z" / "manifest.json").write_text(json.dumps(manifest))
    for words in ((), ("--in-memory-rows", 10)):
        assert "'r67'" in refused(tmp_path, *words)
