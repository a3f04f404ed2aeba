"""The boundary of a record: what its image and its captions raise ends no run."""

import numpy as np
import pytest

from bias_clip.data.bad_records import captions, record_fault, visible_captions
from bias_clip.data.image import make_pixel_fn
from bias_clip.data.stream.pipeline import make_train_iterator
from bias_clip.data.text import make_text_fn

PIXELS = np.full((8, 8, 3), 128, np.uint8)


class Records:
    def __init__(self, *last):
        self.rows = [{"id": f"r{i}", "image": PIXELS, "captions": ("a dog",)} for i in range(7)]
        self.rows += last

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def stream(source, **functions):
    """Stats and tokens of three batches."""
    ops = "decode|background(white)|resize(8)|value_range(-1,1)"
    functions = {
        "image_fn": make_pixel_fn(ops)[0],
        "text_fn": make_text_fn(tokenizer="emoji", length=8),
    } | functions
    settings = {"batch_size": 4, "seed": 0, "num_threads": 0, "max_bad_share": 1.0}
    with make_train_iterator(source, **functions, **settings) as batches:
        text = np.concatenate([next(batches)["text"] for _ in range(3)])
        return batches.stats(), text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"captions": ("half an emoji \ud83d here",)}, "cannot tokenize"),
        ({"captions": ("\u200b\u200b",)}, "no caption, or empty ones only"),
        ({"captions": ("\ufeff", "<br>", "&nbsp;", " &#8203; ")}, "no caption, or empty"),
        ({"captions": None}, "captions are 'None'"),
        ({"captions": (None,)}, "expected a tuple of strings"),
        ({"captions": (3.5, "a dog")}, "expected a tuple of strings"),
        ({"captions": "a brown dog"}, "captions are 'a brown dog'"),
        ({"image": b"GIF89a"}, "cannot decode an image of 6 bytes"),
        ({"image": None}, "decode got NoneType"),
        ({"image": 7}, "decode got int"),
        ({"image": ()}, "no image"),
    ],
)
def test_a_bad_record_is_replaced_counted_and_named(bad, reason):
    stats, text = stream(Records({"id": "bad", "image": PIXELS, "captions": ("a dog",), **bad}))
    assert stats.replaced > 0
    assert list(stats.bad) == ["bad (record 7)"]
    assert reason in stats.bad["bad (record 7)"]
    assert not (text == 1).all(axis=1).any()  # no row of padding alone


@pytest.mark.parametrize(
    "error", [RuntimeError, AssertionError, KeyError, TypeError, ZeroDivisionError]
)
def test_whatever_the_functions_raise_is_the_record_s_fault(error):
    def image_fn(image, rng):
        if image is not PIXELS:
            raise error("oops")
        return image

    bad = {"id": "bad", "image": PIXELS.copy(), "captions": ("a dog",)}
    stats, _ = stream(Records(bad), image_fn=image_fn)
    assert error.__name__ in stats.bad["bad (record 7)"]


class Torn(Records):
    """Raises an error when its last record is read."""

    def __init__(self, error):
        super().__init__({"id": "torn", "image": PIXELS, "captions": ("a dog",)})
        self.error = error

    def __getitem__(self, index):
        if index == 7:
            raise self.error("torn")
        return super().__getitem__(index)


def test_what_a_source_raises_is_the_record_s_fault_and_storage_is_not():
    assert stream(Torn(RuntimeError))[0].bad == {"record 7": "RuntimeError: torn"}
    assert stream(Torn(ValueError))[0].bad == {"record 7": "torn"}
    with pytest.raises(OSError, match="torn"):
        stream(Torn(OSError))


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_no_fault_of_a_record_passes(error):
    with pytest.raises(error), record_fault("x"):
        raise error


def test_a_fault_says_what_failed_and_keeps_its_cause():
    said = r"^the image: RuntimeError: torn$"
    with pytest.raises(ValueError, match=said) as caught, record_fault("the image"):
        raise RuntimeError("torn")
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match=r"^torn$"), record_fault():
        raise ValueError("torn")


def test_captions_are_strings_and_visible_ones_say_something():
    record = {"captions": ["a", " ", "\u00ad", "<3"]}
    assert captions(record) == ("a", " ", "\u00ad", "<3")
    assert visible_captions(record) == ("a", "<3")
    with pytest.raises(ValueError, match="expected a tuple of strings"):
        captions({"captions": float("nan")})
