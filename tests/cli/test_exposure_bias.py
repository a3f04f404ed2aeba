"""The bias of the examples of a run is that of the batches which its iterator returns."""

import json

import numpy as np
import pytest

from bias_clip.cli.exposure_bias import measure
from bias_clip.data.sources import SOURCES
from bias_clip.data.tables import write_table
from bias_clip.evals.bias.data_bias import make_data_bias
from bias_clip.train.config_io import to_plain
from bias_clip.train.stream import open_stream
from tests.train.tiny import Squares, tiny_config

STEPS = 8


class Sided(Squares):
    """Squares of two groups and an attribute of weights, neither independent of the name."""

    def __init__(self):
        super().__init__()
        number = np.arange(len(self))
        self.columns |= {"side": np.where(number % 7 < 3, "left", "right"), "often": number % 3}

    def __getitem__(self, i):
        own = {name: values[i] for name, values in self.columns.items()}
        return {**super().__getitem__(i), **own}


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setitem(SOURCES, "sided", Sided)
    return Sided()


def options(kind, source, folder):
    ids = source.columns["id"]
    if kind == "cells":
        table = {"id": ids, "cluster": np.arange(len(ids)) % 2}
        write_table(folder / "cells.parquet", table, {"kind": "cells"})
        return {"data__cells": dict(table=str(folder / "cells.parquet"), mode="batch")}
    if kind == "column of weights":
        return {"data__columns": dict(weights="often")}
    return {}


@pytest.mark.parametrize("kind", ["plain", "cells", "column of weights"])
def test_what_a_run_was_shown_is_what_its_iterator_returns(kind, source, tmp_path):
    config = tiny_config(**options(kind, source, tmp_path))
    config.data.source = dict(name="sided")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(to_plain(config)))
    shown = np.zeros(len(source))
    with open_stream(config, source, switch=None) as stream:
        for _ in range(STEPS):
            batch = next(stream)
            np.add.at(shown, batch["index"], batch.get("weights", np.ones(config.batch_size)))
    chosen = dict(by="side", label="name")
    (row,) = measure(tmp_path / "run", 1, **chosen)
    expected = make_data_bias(source, weights=shown, **chosen)(None).metrics
    assert expected["association_max"] > 0
    assert row == pytest.approx({"start": 0, "stop": STEPS, **expected})
