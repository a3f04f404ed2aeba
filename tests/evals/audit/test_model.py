"""Embeddings are made once per model and data, survive an interruption, and are never another's."""

import numpy as np
import pytest

from bias_clip.evals.audit import functions_model
from bias_clip.evals.audit.model import audit_encode
from bias_clip.evals.suites.layouts.data import Rows
from tests.evals.audit.people import People


class Calls:
    """Two functions that count what they are given."""

    def __init__(self, scale=1.0, fail_at=None):
        self.images, self.texts, self.scale, self.fail_at = 0, 0, scale, fail_at

    def encode_images(self, images):
        if self.fail_at is not None and self.images >= self.fail_at:
            raise RuntimeError("interrupted")
        self.images += len(images)
        assert all(x.dtype == np.uint8 and x.shape == (2, 2, 3) for x in images)
        return np.stack([[self.scale, float(x[0, 0, 0]), 1.0] for x in images])

    def encode_texts(self, texts):
        self.texts += len(texts)
        return [[len(text), 1.0, self.scale] for text in texts]


def made(calls, folder, *, version=1, said=None):
    return functions_model(
        "a/model",
        calls.encode_images,
        calls.encode_texts,
        identity={"version": version},
        cache=folder,
        batch_size=16,
        say=(lambda text: None) if said is None else said.append,
    )


def test_data_are_embedded_once_and_found_again(tmp_path):
    calls, said = Calls(), []
    first = made(calls, tmp_path).images(People(40), {"data": 1})
    again = made(calls, tmp_path, said=said).images(People(40), {"data": 1})
    assert calls.images == 40
    np.testing.assert_array_equal(first, again)
    assert "from" in said[0]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)


def test_functions_are_known_by_the_identity_that_was_given(tmp_path):
    one, again, other = (made(Calls(), tmp_path, version=v).provenance for v in (1, 1, 2))
    assert (one.given, one.format, one.step, one.parameters) == (
        "version=1",
        "functions",
        None,
        None,
    )
    assert one == again
    assert one.sha256["identity"] != other.sha256["identity"]


def test_some_rows_come_from_the_embeddings_of_all(tmp_path):
    calls, source = Calls(), People(40)
    encode = audit_encode(made(calls, tmp_path), {})
    whole, some = encode.images(source), encode.images(Rows(source, np.array([5, 3])))
    np.testing.assert_array_equal(some, whole[[5, 3]])
    assert calls.images == 40


def test_texts_are_embedded_once_each(tmp_path):
    calls = Calls()
    model = made(calls, tmp_path)
    model.texts(["a", "b", "a"])
    assert model.texts(["b", "c"]).shape == (2, 3)
    assert calls.texts == 3


@pytest.mark.parametrize("change", ["model", "data", "ids"])
def test_other_models_and_other_data_have_other_caches(change, tmp_path):
    calls = Calls()
    made(calls, tmp_path).images(People(40), {"data": 1})
    version, about, number = {"model": (2, 1, 40), "data": (1, 2, 40), "ids": (1, 1, 41)}[change]
    made(calls, tmp_path, version=version).images(People(number), {"data": about})
    assert calls.images == 40 + number


def test_a_damaged_cache_is_said_and_made_again(tmp_path):
    calls, said = Calls(), []
    first = made(calls, tmp_path).images(People(40), {})
    (shard,) = tmp_path.rglob("image-00000.npy")
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(bytes(data))
    again = made(calls, tmp_path, said=said).images(People(40), {})
    assert any("is damaged" in line for line in said)
    assert calls.images == 80
    np.testing.assert_array_equal(first, again)


def test_an_interrupted_audit_goes_on_after_whole_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("bias_clip.evals.audit.model.SHARD_ROWS", 16)
    with pytest.raises(RuntimeError, match="interrupted"):
        made(Calls(fail_at=32), tmp_path).images(People(40), {})
    calls = Calls()
    z = made(calls, tmp_path).images(People(40), {})
    assert calls.images == 8
    np.testing.assert_array_equal(z, made(Calls(), tmp_path / "new").images(People(40), {}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 3)), r"texts returned shape \(1, 3\) for 2 inputs; expected \(2, d\)"),
        (np.ones((2, 1, 3)), r"shape \(2, 1, 3\) for 2 inputs; expected \(2, d\): one row per"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        (
            np.zeros((2, 3)),
            "2 of 2 rows of zeros .in float32., which have no direction, such as for 'a'",
        ),
        ([[1, np.nan], [1, 2]], "1 of 2 rows with NaN or infinity .*such as for 'a'"),
        ([[1, 2], [1, 1e300]], "such as for 'b'"),
        (
            [[1.0, 2.0], [1.0]],
            "a list that is not a table of numbers .*expected an array of 2 rows",
        ),
        ({"z": 1}, "a dict that is not a table of numbers"),
        (np.ones((2, 3)) * 1j, "complex numbers; expected real ones"),
    ],
)
def test_what_is_not_a_row_of_numbers_per_input_is_refused(given, message, tmp_path):
    calls = Calls()
    calls.encode_texts = lambda texts: given
    with pytest.raises(ValueError, match=message):
        made(calls, tmp_path).texts(["a", "b"])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_rows_whose_squares_a_float32_cannot_hold_keep_their_direction(size, tmp_path):
    calls = Calls()
    calls.encode_texts = lambda texts: np.array([[3.0, 4.0]] * len(texts)) * size
    np.testing.assert_allclose(made(calls, tmp_path).texts(["a", "b"]), [[0.6, 0.8]] * 2)


def test_integers_and_lists_are_numbers(tmp_path):
    calls = Calls()
    calls.encode_texts = lambda texts: [np.array([3, 4])] * len(texts)
    np.testing.assert_allclose(made(calls, tmp_path).texts(["a", "b"]), [[0.6, 0.8]] * 2)


def test_what_the_function_raises_is_raised_and_embedded_rows_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("bias_clip.evals.audit.model.SHARD_ROWS", 16)
    calls = Calls()
    fail = calls.encode_images

    def encode_images(images):
        if calls.images >= 16:
            raise ValueError("my own fault")
        return fail(images)

    calls.encode_images = encode_images
    with pytest.raises(ValueError, match="my own fault"):
        made(calls, tmp_path).images(People(40), {})
    assert calls.images == 16
    calls = Calls()
    made(calls, tmp_path).images(People(40), {})
    assert calls.images == 24


def test_texts_of_another_width_than_the_images_are_refused(tmp_path):
    calls = Calls()
    calls.encode_texts = lambda texts: np.ones((len(texts), 5))
    model = made(calls, tmp_path)
    model.images(People(4), {})
    with pytest.raises(
        ValueError, match="images have 3 numbers each and texts 5; expected one width"
    ):
        model.texts(["a"])


class Repainted(People):
    """The same ids with other images, as after a file is written again."""

    def __getitem__(self, i):
        record = super().__getitem__(i)
        return {**record, "image": 255 - record["image"]}


def test_other_images_of_the_same_ids_are_embedded_again(tmp_path):
    calls = Calls()
    first = made(calls, tmp_path).images(People(40), {})
    again = made(calls, tmp_path).images(Repainted(40), {})
    assert calls.images == 80
    assert np.abs(first - again).max() > 0.1


def test_a_cache_of_an_older_way_to_embed_is_not_used(tmp_path, monkeypatch):
    calls = Calls()
    made(calls, tmp_path).images(People(40), {})
    monkeypatch.setattr("bias_clip.evals.audit.model.CACHE_VERSION", 99)
    made(calls, tmp_path).images(People(40), {})
    assert calls.images == 80


def test_embeddings_that_are_all_the_same_are_said_once(tmp_path):
    calls = Calls()
    calls.encode_images = lambda images: np.ones((len(images), 3))
    model = made(calls, tmp_path)
    model.images(People(40), {})
    model.images(People(40), {})
    said = "all 40 image embeddings are the same: no number says anything about the model."
    assert model.notes == [said]
