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


def test_numbers_that_are_not_finite_and_rows_that_are_missing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        made(Calls(scale=np.nan), tmp_path).images(People(4), {})
    calls = Calls()
    calls.encode_texts = lambda texts: np.zeros((1, 3))
    with pytest.raises(ValueError, match="one row per input"):
        made(calls, tmp_path).texts(["a", "b"])
    calls.encode_texts = lambda texts: np.zeros((len(texts), 3))
    with pytest.raises(ValueError, match="are zero"):
        made(calls, tmp_path).texts(["c", "d"])
