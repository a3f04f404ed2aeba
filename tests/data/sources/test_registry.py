"""The registry, and columns of a source with and without a table."""

import numpy as np
import pytest

from bias_clip.data.records import attributes
from bias_clip.data.sources import registry as sources
from tests.data.tiny import Patches


def test_unknown_source_lists_the_valid_ones():
    with pytest.raises(
        ValueError, match=r"source 'emojis'; expected one of \['array_rec.*mean 'emoji'"
    ):
        sources.make_source(name="emojis")


@pytest.mark.parametrize("name", ["array_record", "tfds", "emoji"])
def test_unknown_argument_lists_the_valid_ones(name):
    with pytest.raises(ValueError, match=r"has 'splitt'; expected one of \['"):
        sources.make_source(name=name, splitt="train")


def test_missing_argument_is_named():
    with pytest.raises(ValueError, match=r"source 'array_record' lacks \['path'\]"):
        sources.make_source(name="array_record")


def test_column_reads_records_where_there_is_no_table():
    patches = Patches(4)
    np.testing.assert_array_equal(sources.column(patches, "number"), [0, 1, 2, 3])
    assert sources.column(patches, "id").tolist() == [f"patch{i}" for i in range(4)]
    with pytest.raises(ValueError, match=r"no attribute 'image' in record 'patch0'.*'number'"):
        sources.column(patches, "image")


def test_column_takes_the_table_where_there_is_one():
    patches = Patches(4)
    patches.columns = {"id": np.array(["a"]), "tone": np.array([5])}
    assert sources.column(patches, "tone") is patches.columns["tone"]
    with pytest.raises(ValueError, match="no attribute 'number', the source has"):
        sources.column(patches, "number")


def test_the_embedded_source_gives_records():
    source = sources.make_source(name="emoji", split="style")
    record = source[len(source) // 2]
    assert (
        len(sources.column(source, "id")) == len(source) == len(set(sources.column(source, "id")))
    )
    assert record["image"].dtype == np.uint8
    assert all(isinstance(c, str) and c for c in record["captions"])
    assert attributes(record)["style"] == "twemoji"
