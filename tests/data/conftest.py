"""What several tests of data need: functions from records to arrays, with a tokenizer trained here."""

import pytest

from bias_clip.data.image import make_image_fn
from bias_clip.data.text import make_text_fn
from tests.data.tiny import train_tokenizer


@pytest.fixture(scope="session")
def fns(tmp_path_factory):
    """Arguments of `make_train_iterator`: random crops and flips, so that a wrong seed shows."""
    model = train_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    ops = "decode|flip_lr|random_crop(4)|value_range(-1,1)"
    return {"image_fn": make_image_fn(ops), "text_fn": make_text_fn(tokenizer=model, length=8)}
