import threading

import numpy as np
import pytest

from bias_clip.evals import make_encoder
from tests.evals.cases import ListSource, record

IMAGE_WEIGHTS = np.random.default_rng(0).normal(size=(3, 5))
TEXT_WEIGHTS = np.random.default_rng(1).normal(size=(4, 5))


def image_fn(image, rng):
    return image[0, :1, :3].reshape(1, 1, 3).astype(np.float32) + rng.uniform(0, 0.1)


def text_fn(text):
    return np.array([len(text), ord(text[0]), text.count("a"), 1], np.int32)


def make(batch_size, seen=None, threads=2):
    """An encoder over linear towers that notes the shape of every batch."""
    seen = [] if seen is None else seen

    def embed(weights, x):
        seen.append(x.shape)
        return x.reshape(len(x), -1) @ weights

    return make_encoder(
        embed_image=lambda params, x: embed(params["img"], x),
        embed_text=lambda params, x: embed(params["txt"], x),
        image_fn=image_fn,
        text_fn=text_fn,
        batch_size=batch_size,
        num_threads=threads,
    )({"img": IMAGE_WEIGHTS, "txt": TEXT_WEIGHTS}, 10.0, -10.0)


SOURCE = ListSource([record(i) for i in range(10)])
TEXTS = [f"{'a' * i}b" for i in range(10)]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 64])
def test_padding_and_batch_size_never_change_the_embeddings(batch_size):
    whole, encode = make(10), make(batch_size)
    np.testing.assert_allclose(encode.images(SOURCE), whole.images(SOURCE), atol=1e-6)
    np.testing.assert_allclose(encode.texts(TEXTS), whole.texts(TEXTS), atol=1e-6)


def test_every_batch_has_the_same_shape_so_the_model_compiles_once():
    seen = []
    encode = make(4, seen)
    encode.images(SOURCE)
    assert seen == [(4, 1, 1, 3)] * 3
    encode.texts(TEXTS)
    assert seen[3:] == [(4, 4)] * 3


def test_rows_are_the_records_in_order_and_of_unit_norm():
    z = make(4, threads=5).images(SOURCE)
    rngs = [np.random.Generator(np.random.Philox(key=i)) for i in range(10)]
    x = np.stack([image_fn(SOURCE[i]["image"], rngs[i]).ravel() for i in range(10)])
    expected = x @ IMAGE_WEIGHTS
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(z, expected, atol=1e-6)
    assert z.dtype == np.float32


def test_sources_and_strings_are_embedded_once_per_checkpoint():
    seen = []
    encode = make(1, seen)
    first = encode.images(SOURCE)
    assert encode.images(SOURCE) is first
    assert len(seen) == 10
    encode.images(ListSource(SOURCE.records))
    assert len(seen) == 20
    encode.texts(["x", "y", "x"])
    assert len(seen) == 22
    z = encode.texts(["y", "z", "x"])
    assert len(seen) == 23  # "z" alone was new
    np.testing.assert_array_equal(z, make(1).texts(["y", "z", "x"]))


def test_each_checkpoint_embeds_anew():
    encoder = make_encoder(
        embed_image=lambda params, x: np.full((len(x), 2), params),
        embed_text=lambda params, x: np.full((len(x), 2), params),
        image_fn=image_fn,
        text_fn=text_fn,
        batch_size=4,
    )
    assert encoder(1.0, 2.0, 3.0).images(SOURCE)[0, 0] > 0
    assert encoder(-1.0, 2.0, 3.0).images(SOURCE)[0, 0] < 0
    assert encoder(1.0, 2.0, 3.0)[2:] == (2.0, 3.0)


def test_a_record_with_several_images_is_judged_by_the_first():
    images = (SOURCE[3]["image"], SOURCE[4]["image"])
    source = ListSource([record(0) | {"image": images}])
    seen = []
    encoder = make_encoder(
        embed_image=lambda _, x: seen.append(float(x[0, 0, 0, 2])) or np.ones((len(x), 2)),
        embed_text=lambda _, x: x,
        image_fn=lambda image, rng: np.full((1, 1, 3), image[0, 0, 0], np.float32),
        text_fn=text_fn,
        batch_size=1,
    )
    encoder(None, 1.0, 0.0).images(source)
    assert seen == [3.0]


def test_the_caller_waits_for_few_images_at_a_time():
    """Not more than two batches are read ahead, so a large set never lies in memory."""
    lock, read = threading.Lock(), []

    class Counting(ListSource):
        def __getitem__(self, index):
            with lock:
                read.append(index)
            return super().__getitem__(index)

    ahead = []
    encoder = make_encoder(
        embed_image=lambda _, x: ahead.append(len(read)) or np.ones((len(x), 2)),
        embed_text=lambda _, x: x,
        image_fn=image_fn,
        text_fn=text_fn,
        batch_size=2,
    )
    encoder(None, 1.0, 0.0).images(Counting(SOURCE.records))
    assert all(count <= 2 * (i + 2) for i, count in enumerate(ahead))


def test_bad_input_is_named():
    encode = make(4)
    with pytest.raises(ValueError, match="no image"):
        encode.images(ListSource([]))
    with pytest.raises(ValueError, match="no text"):
        encode.texts([])

    def broken(image, rng):
        raise ValueError("truncated")

    encoder = make_encoder(
        embed_image=lambda _, x: x,
        embed_text=lambda _, x: x,
        image_fn=broken,
        text_fn=text_fn,
        batch_size=2,
    )
    with pytest.raises(ValueError, match=r"'r0' \(index 0\) cannot be read: truncated"):
        encoder(None, 1.0, 0.0).images(SOURCE)
    with pytest.raises(ValueError, match="batch_size=0"):
        make(0)


def test_embeddings_that_are_not_finite_stop_the_evaluation():
    encoder = make_encoder(
        embed_image=lambda _, x: np.where(np.arange(len(x))[:, None] == 1, np.nan, 1.0),
        embed_text=lambda _, x: x,
        image_fn=image_fn,
        text_fn=text_fn,
        batch_size=16,
    )
    with pytest.raises(ValueError, match="1 of 10 image embeddings are not finite, first row 1"):
        encoder(None, 1.0, 0.0).images(SOURCE)
