"""Vocabularies of every published form, told by content, and what is none of them."""

import gzip
import lzma
from importlib import resources

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bias_clip.data.text import load_vocabulary, make_text_fn, read_vocabulary, vocab_size
from bias_clip.data.text.forms import FORMS, ascii_lower, clip_transformers, open_clip, siglip
from tests.data.tiny import train_tokenizer

MERGES = lzma.decompress(
    resources.files("bias_clip.data").joinpath("text/clip_merges.txt.xz").read_bytes()
)
CLIP = {"tokenizer": "clip", "length": 77, "lower": False, "pad": 0, "form": "clip", "bos": True}


def test_clip_has_the_published_ids():
    # From open_clip 3.3.0 for "a photo of a cat".
    ids = make_text_fn(**CLIP)("a photo of a cat")
    assert ids[:8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert vocab_size("clip") == 49408


@pytest.mark.parametrize("packed", [False, True])
def test_the_published_file_of_merges_is_read_packed_or_not(tmp_path, packed):
    lines = b'"bpe_simple_vocab_16e6.txt#version: 0.2\n' + MERGES + b"un used</w>\n" * 9
    path = tmp_path / "bpe.txt"
    path.write_bytes(gzip.compress(lines) if packed else lines)
    got = make_text_fn(**{**CLIP, "tokenizer": str(path)})("two dogs, it's 42!")
    np.testing.assert_array_equal(got, make_text_fn(**CLIP)("two dogs, it's 42!"))


def test_a_folder_is_read_by_what_it_holds(tmp_path):
    with pytest.raises(ValueError, match=r"has no tokenizer; expected one of .*'tokenizer\.json'"):
        load_vocabulary(str(tmp_path))
    model = train_tokenizer(tmp_path)
    (tmp_path / "folder").mkdir()
    with open(model, "rb") as file:
        (tmp_path / "folder" / "spiece.model").write_bytes(file.read())
    assert load_vocabulary(str(tmp_path / "folder")).size == vocab_size(model)


def test_a_text_function_goes_to_other_processes():
    text_fn = make_text_fn(**CLIP)
    there = cloudpickle.loads(cloudpickle.dumps(text_fn))
    np.testing.assert_array_equal(there("a dog"), text_fn("a dog"))


def test_what_is_no_vocabulary_is_refused_with_its_name():
    for data in (
        b"",
        b"{}",
        b"[PAD]\n\xff",
        b"\x1f\x8b",
        gzip.compress(b"x"),
        b"#version\na b c\n",
    ):
        with pytest.raises(ValueError, match="'mine' is not a"):
            read_vocabulary([data], "mine")


def test_a_packed_file_that_grows_without_end_is_refused(monkeypatch):
    monkeypatch.setattr("bias_clip.data.text.vocabulary._MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes unpacked"):
        read_vocabulary([gzip.compress(bytes(10_000_000))], "bomb")


def test_missing_tokens_and_unknown_forms_are_named():
    with pytest.raises(ValueError, match="has no BOS piece"):
        make_text_fn(tokenizer="emoji", length=8, bos=True)
    with pytest.raises(ValueError, match=r"unknown form 'clap'; expected one of"):
        make_text_fn(tokenizer="emoji", length=8, form="clap")
    with pytest.raises(ValueError, match="eos_id=999999"):
        make_text_fn(tokenizer="emoji", length=8, eos_id=999_999)
    with pytest.raises(ValueError, match="no tokenizer '/nowhere'"):
        make_text_fn(tokenizer="/nowhere", length=8)


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (ascii_lower, "ÉTÉ Ab_C.", "ÉtÉ ab_c."),
        (siglip, " Snake_Case,  ÉTÉ! ", "snakecase été"),
        (open_clip, "fish &amp;amp;  chips\n cafÃ©", "fish & chips café"),
        (clip_transformers, "ΟΔΟΣ\t\nE\u0301", "οδοσ é"),
    ],
)
def test_forms_of_published_recipes(form, text, expected):
    assert form(text) == expected


def test_forms_follow_one_another():
    both = make_text_fn(tokenizer="emoji", length=8, form="open_clip|siglip", lower=False)
    one = make_text_fn(tokenizer="emoji", length=8, form="plain", lower=False)
    np.testing.assert_array_equal(both("A &amp; Red_Heart!"), one("a redheart"))


@pytest.mark.parametrize("tokenizer", ["emoji", "clip"])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_any_text_gives_ids_of_the_vocabulary_or_a_value_error(tokenizer, form):
    begins = {"bos": True} if tokenizer == "clip" else {}
    text_fn = make_text_fn(tokenizer=tokenizer, length=9, form=form, **begins)
    size = vocab_size(tokenizer)

    @settings(max_examples=25, deadline=None)
    @given(st.text(alphabet=st.characters(codec=None), max_size=40))
    def check(text):
        try:
            ids = text_fn(text)
        except ValueError:
            # Half of a surrogate pair is not text.
            assert any("\ud800" <= letter <= "\udfff" for letter in text)
            return
        assert ids.shape == (9,)
        assert ids.min() >= 0
        assert ids.max() < size

    check()


@pytest.mark.parametrize("caption", [None, 3, 0.5, b"a dog", ["a dog"]])
def test_what_is_no_text_is_a_value_error(caption):
    with pytest.raises(ValueError, match="cannot tokenize a caption"):
        make_text_fn(**CLIP)(caption)
