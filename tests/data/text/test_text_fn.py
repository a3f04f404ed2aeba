"""Token ids by the SigLIP rule, on a model trained here."""

import numpy as np
import pytest
import sentencepiece

from bias_clip.data.text import canonicalize, load_tokenizer, make_text_fn, vocab_size
from tests.data.tiny import train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def pieces(model, text):
    return sentencepiece.SentencePieceProcessor(model_file=model).encode(text)


def test_short_text_is_its_pieces_then_eos_and_padding(model):
    ids = pieces(model, "a red cat")
    got = make_text_fn(tokenizer=model, length=12)("a red cat")
    assert got.dtype == np.int32
    assert got.tolist() == ids + [1] * (12 - len(ids))


def test_the_pad_is_not_the_eos_where_asked(model):
    ids = pieces(model, "a red cat")
    got = make_text_fn(tokenizer=model, length=12, pad=7)("a red cat")
    assert got.tolist() == ids + [1] + [7] * (11 - len(ids))


def test_upper_case_is_lower_case(model):
    text_fn = make_text_fn(tokenizer=model, length=12)
    np.testing.assert_array_equal(text_fn("A Red CAT"), text_fn("a red cat"))
    kept = make_text_fn(tokenizer=model, length=12, lower=False)
    assert not np.array_equal(kept("A Red CAT"), kept("a red cat"))


def test_punctuation_of_captions_is_kept(model):
    text_fn = make_text_fn(tokenizer=model, length=12)
    assert not np.array_equal(text_fn("a red, cat!"), text_fn("a red cat"))


@pytest.mark.parametrize(("eos", "last"), [("sticky", 1), ("cut", None), ("none", None)])
def test_long_text_is_cut_and_sticky_eos_is_last(model, eos, last):
    text = "a red cat " * 10
    ids = pieces(model, text)
    got = make_text_fn(tokenizer=model, length=8, eos=eos)(text)
    assert got.tolist() == ids[:7] + [ids[7] if last is None else last]


def test_text_that_fits_but_for_its_eos_loses_its_last_piece(model):
    ids = pieces(model, "a red cat")
    exact = make_text_fn(tokenizer=model, length=len(ids), pad=7)("a red cat")
    assert exact.tolist() == ids[:-1] + [1]
    roomy = make_text_fn(tokenizer=model, length=len(ids) + 1, pad=7)("a red cat")
    assert roomy.tolist() == ids + [1]


def test_without_eos_there_is_none(model):
    ids = pieces(model, "a red cat")
    got = make_text_fn(tokenizer=model, length=9, pad=7, eos="none")("a red cat")
    assert got.tolist() == ids + [7] * (9 - len(ids))


def test_empty_text_is_eos_and_padding(model):
    assert make_text_fn(tokenizer=model, length=4, pad=7)("").tolist() == [1, 7, 7, 7]


def test_vocabulary_size_bounds_the_ids(model):
    size = vocab_size(model)
    ids = make_text_fn(tokenizer=model, length=32)("the qu%ck ü fox 狐")
    assert 0 <= ids.min() <= ids.max() < size == len(load_tokenizer(model))


def test_missing_and_broken_models_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer '/nowhere\.model': expected 'emoji' or"):
        load_tokenizer("/nowhere.model")
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"this is not a model")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        load_tokenizer(str(broken))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eos": "stiky"}, "got eos='stiky', expected one of"),
        ({"length": 0}, "got length=0, expected at least 1"),
        ({"pad": 10_000}, "got pad=10000, expected an id below"),
    ],
)
def test_wrong_arguments_say_what_is_valid(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_text_fn(**{"tokenizer": model, "length": 8, **arguments})


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("A photo_of  a {}.", "{}", "a photo of a {}"),
        ("itap of a {}!?", "{}", "itap of a {}"),
        ("Flat-coated_Retriever", "", "flatcoated retriever"),
        ("  Doctor's\tOffice\n", "", "doctors office"),
        ("a {}.", "", "a"),
        ("", "", ""),
    ],
)
def test_canonical_names_and_prompts(text, keep, expected):
    assert canonicalize(text, keep=keep) == expected
    assert canonicalize(expected, keep=keep) == expected
