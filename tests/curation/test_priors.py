"""Priors: each estimator on data whose classes are known, the tool, and training's column."""

import numpy as np
import pytest

from bias_clip.cli.curate import priors as tool
from bias_clip.curation.priors import copy_priors, label_priors, neighbour_priors
from bias_clip.data.stream.columns import make_columns
from bias_clip.data.tables import read_table, write_table
from bias_clip.data.tables.embeddings import open_embeddings
from bias_clip.data.tables.embeddings_writer import Shard, write_embeddings

SIZES = (60, 30, 10)
LABEL = np.repeat(np.arange(3), SIZES)
IDS = np.asarray([f"r{i}" for i in range(100)])
TRUTH = (np.asarray(SIZES)[LABEL] - 1) / 99


def embedded(folder, dimensions=16):
    rng = np.random.default_rng(0)
    z = np.eye(3, dimensions)[LABEL] + 0.05 * rng.normal(size=(100, dimensions))
    write_embeddings(
        folder,
        lambda rows: Shard(IDS[rows].tolist(), {"text": z[rows].astype(np.float32)}, {}),
        examples=100,
        about={"of": "three classes"},
    )
    return open_embeddings(folder)


def annotations(path):
    columns = {f"c{j}": (j == LABEL).astype(np.int8) for j in range(3)}
    write_table(path, {"id": IDS, **columns}, {"kind": "annotations"})
    return path


def test_labels_give_the_share_of_the_class(tmp_path):
    path = annotations(tmp_path / "a")
    every = label_priors(path, ["c0", "c1", "c2"], most=0.9)
    np.testing.assert_allclose(every["prior"], TRUTH, rtol=1e-6)
    some = label_priors(path, ["c0", "c1"], most=0.9)["prior"]
    assert not some[LABEL == 2].any()  # without a label there is no class
    one = label_priors(path, ["c1"])["prior"]
    np.testing.assert_allclose(one, np.where(LABEL == 1, 29 / 99, 0), rtol=1e-6)


def test_neighbours_between_the_similarities_are_the_classes(tmp_path):
    embeddings = embedded(tmp_path / "z")
    found = neighbour_priors(embeddings, threshold=0.5, most=0.9)["prior"]
    np.testing.assert_allclose(found, TRUTH, rtol=1e-6)
    assert (neighbour_priors(embeddings, threshold=0.999)["prior"] <= TRUTH).all()
    all_of_them = neighbour_priors(embeddings, threshold=-1, most=0.999)["prior"]
    np.testing.assert_allclose(all_of_them, 0.999, rtol=1e-6)  # every other one, itself not counted
    sampled = neighbour_priors(embeddings, threshold=0.5, sample=50, most=0.9)["prior"]
    assert abs(sampled - TRUTH).max() < 5 * np.sqrt(0.25 / 50)


def test_copies_are_a_lower_bound(tmp_path):
    table = {"id": IDS, "near_copies": np.repeat([6, 3, 1], SIZES)}
    write_table(tmp_path / "q", table, {"kind": "measures"})
    found = copy_priors(tmp_path / "q")["prior"]
    np.testing.assert_allclose(found, (table["near_copies"] - 1) / 99, rtol=1e-6)
    assert (found <= TRUTH).all()
    with pytest.raises(ValueError, match="has no 'caption_copies'"):
        copy_priors(tmp_path / "q", "caption_copies")


class Pairs:
    """The examples in another order, as a source."""

    def __init__(self):
        self.columns = {"id": IDS[::-1]}

    def __len__(self):
        return 100

    def __getitem__(self, index):
        raise AssertionError("no record is read for a column")


@pytest.mark.parametrize("which", ["labels", "clusters", "neighbours"])
def test_the_tool_writes_what_training_reads(tmp_path, which, capsys):
    embedded(tmp_path / "z")
    write_table(tmp_path / "cells", {"id": IDS, "cluster": LABEL}, {"kind": "cells"})
    words = {
        "labels": ["--labels", annotations(tmp_path / "a"), "c0", "c1", "c2"],
        "clusters": ["--clusters", tmp_path / "cells"],
        "neighbours": ["--neighbours", tmp_path / "z", "--threshold", 0.5],
    }[which]
    path = tmp_path / "priors.parquet"
    tool.main([str(word) for word in (*words, "--out", path, "--most", 0.9)])
    found = make_columns(Pairs(), {"prior": {"table": str(path)}})["prior"]
    np.testing.assert_allclose(found, TRUTH[::-1], rtol=1e-6)
    assert found.dtype == np.float32
    assert read_table(path, kind="priors").manifest["estimator"]["estimator"] == which
    assert f"100 priors, by {which}" in capsys.readouterr().out


def test_what_the_tool_refuses(tmp_path):
    with pytest.raises(SystemExit, match="expected one of --labels"):
        tool.main(["--out", str(tmp_path / "p")])
    embedded(tmp_path / "z")
    with pytest.raises(SystemExit, match="needs --threshold"):
        tool.main(["--neighbours", str(tmp_path / "z"), "--out", str(tmp_path / "p")])
    path = annotations(tmp_path / "a")
    with pytest.raises(SystemExit, match=r"has no columns \['frog'\]"):
        tool.main(["--labels", str(path), "frog", "--out", str(tmp_path / "p")])


def test_a_column_of_a_table_that_is_not_there_is_named(tmp_path):
    path = annotations(tmp_path / "a")
    with pytest.raises(ValueError, match=r"columns.prior: .* has no 'prior'"):
        make_columns(Pairs(), {"prior": {"table": str(path)}})
    labels = make_columns(Pairs(), {"labels": {"table": str(path), "column": "c1"}})["labels"]
    np.testing.assert_array_equal(labels, (LABEL == 1)[::-1])
