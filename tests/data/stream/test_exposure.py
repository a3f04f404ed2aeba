"""What a run was fed, counted by rule, is what its iterator hands out."""

import numpy as np
import pytest

from bias_clip.data.emoji import emoji_source
from bias_clip.data.image import make_image_fn
from bias_clip.data.stream import make_plan, plain_plan
from bias_clip.data.stream.exposure import count_exposure
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.tables import write_table
from bias_clip.data.text import make_text_fn

BATCH, STEPS, SEED = 60, 8, 3  # several epochs of a small source


@pytest.fixture(scope="module")
def source():
    return emoji_source(split="images", groups=["flags", "food-drink"])


@pytest.fixture(scope="module")
def table(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.parquet"
    weights = np.linspace(0, 2, len(source))
    columns = {"id": source.columns["id"], "weight": weights}
    write_table(path, columns, {"kind": "weights"})
    return str(path)


def handed_out(source, plan, start, stop):
    total = np.zeros(len(source))
    with make_train_iterator(
        source,
        image_fn=make_image_fn("decode|background(white)|resize(8)|value_range(-1,1)"),
        text_fn=make_text_fn(tokenizer="emoji", length=8),
        batch_size=BATCH,
        seed=SEED,
        num_threads=0,
        plan=plan,
    ) as batches:
        for step in range(stop):
            batch = next(batches)
            if step >= start:
                np.add.at(total, batch["index"], batch.get("weights", np.ones(BATCH)))
    return total


@pytest.mark.parametrize("use", ["plain", "thin", "weight"])
@pytest.mark.parametrize("switch", [None, 3])
@pytest.mark.parametrize(("start", "stop"), [(0, STEPS), (2, 5), (4, 4)])
def test_counts_are_those_of_the_iterator(source, table, use, switch, start, stop):
    plan = plain_plan(source)
    if use != "plain":
        plan = make_plan(source, table=table, use=use, switch=switch)
    counted = count_exposure(source, plan, batch_size=BATCH, seed=SEED, start=start, stop=stop)
    np.testing.assert_allclose(counted, handed_out(source, plan, start, stop), rtol=1e-6)


def test_steps_that_make_no_sense_are_refused(source):
    with pytest.raises(ValueError, match="got steps 3 to 2"):
        count_exposure(source, plain_plan(source), batch_size=4, seed=0, start=3, stop=2)
