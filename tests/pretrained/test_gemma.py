"""Gemma's vocabulary in an export: the written files give the same ids as SentencePiece does."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from bias_clip.data.text import load_vocabulary, make_text_fn
from bias_clip.data.text.sentence_piece_file import read_pieces
from bias_clip.pretrained.exports.export_tokens import hugging_face_tokens, open_clip_tokens
from bias_clip.pretrained.tokenizer import read_tokenizer
from tests.data.tiny import train_tokenizer
from tests.pretrained.gemma import CAPTIONS, SPECIAL, train_gemma

RULES = {"length": 64, "lower": False, "pad": 0, "form": "letter_lower"}
EVERY = [*CAPTIONS, *SPECIAL]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_gemma(tmp_path_factory.mktemp("gemma"))


def as_bytes(files):
    return {n: x if isinstance(x, bytes) else json.dumps(x).encode() for n, x in files.items()}


def test_the_converted_vocabulary_gives_the_ids_of_sentence_piece(model):
    written = hugging_face_tokens({**RULES, "tokenizer": model}, clip=False)
    assert written.notes == ()
    tokenizer = Tokenizer.from_buffer(written.files["tokenizer.json"])
    tokenizer.encode_special_tokens = True  # as split_special_tokens sets it
    vocabulary = load_vocabulary(model)
    for caption in EVERY:
        text = "".join(letter.lower() for letter in caption)
        assert tokenizer.encode(text).ids == [*vocabulary.encode(text), 1], caption
    # Merges and bytes were both used, or the comparison would say little.
    ids = {i for caption in CAPTIONS for i in vocabulary.encode(caption)}
    kinds = [piece.kind for piece in read_pieces(Path(model).read_bytes()).pieces]
    assert {kinds[i] for i in ids} >= {"normal", "byte", "user"}


def test_a_folder_is_read_again_as_the_same_ids(model, tmp_path):
    rules = {**RULES, "tokenizer": model}
    size = load_vocabulary(model).size
    files = as_bytes(hugging_face_tokens(rules, clip=False).files)
    assert set(files) == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    again = read_tokenizer(files, "hugging_face", family="siglip", length=64, vocab_size=size)
    expected = np.stack([make_text_fn(**rules)(caption) for caption in EVERY])
    np.testing.assert_array_equal(again.encode(EVERY), expected)
    assert {k: v for k, v in again.rules.items() if k != "tokenizer"} == RULES
    # A tokenizer.json alone sees special tokens in captions, and is written as it is.
    path = tmp_path / "tokenizer.json"
    path.write_bytes(files["tokenizer.json"])
    alone = hugging_face_tokens({**RULES, "tokenizer": str(path)}, clip=False)
    assert alone.files["tokenizer_config.json"]["split_special_tokens"] is False
    found = read_tokenizer(
        as_bytes(alone.files), "hugging_face", family="siglip", length=64, vocab_size=size
    )
    assert found.encode(["<bos>"])[0, 0] == 2
    assert again.encode(["<bos>"])[0, 0] != 2
    np.testing.assert_array_equal(found.encode(CAPTIONS), again.encode(CAPTIONS))


def test_open_clip_states_how_it_cleans(model):
    rules = {**RULES, "tokenizer": model, "form": "open_clip_canonical|letter_lower"}
    written = open_clip_tokens(rules, clip=False)
    assert written.notes == ()
    said = written.files["text_cfg"]
    assert said["tokenizer_kwargs"] == {"clean": "canonicalize"}
    files = {k: v for k, v in written.files.items() if k != "text_cfg"}
    files["open_clip_config.json"] = {"model_cfg": {"text_cfg": said}}
    size = load_vocabulary(model).size
    sizes = {"family": "siglip", "length": 64, "vocab_size": size}
    again = read_tokenizer(as_bytes(files), "open_clip", **sizes)
    assert again.rules["form"] == rules["form"]
    np.testing.assert_array_equal(
        again.encode(EVERY), [make_text_fn(**rules)(caption) for caption in EVERY]
    )
    (note,) = open_clip_tokens({**RULES, "tokenizer": model}, clip=False).notes
    assert "mends HTML entities" in note


def test_what_transformers_cannot_say_of_gemma_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"pad of the texts is 1; .* can only say 0"):
        hugging_face_tokens({**RULES, "tokenizer": model, "pad": 1}, clip=False)
    with pytest.raises(ValueError, match=r"form of the texts is 'siglip'; .*letter_lower"):
        hugging_face_tokens({**RULES, "tokenizer": model, "form": "siglip"}, clip=False)
    files = {"tokenizer.json": b"", "tokenizer_config.json": b'{"split_special_tokens": true}'}
    with pytest.raises(ValueError, match="split_special_tokens, which needs a SentencePiece file"):
        read_tokenizer(files, "hugging_face", family="siglip", length=8, vocab_size=9)


def test_pieces_of_a_file_are_those_of_the_library(model, tmp_path):
    for path, plain in ((model, True), (train_tokenizer(tmp_path), False)):
        data = Path(path).read_bytes()
        file = read_pieces(data)
        assert (file.bpe, file.plain) == (plain, plain)
        library = load_vocabulary(path).encode.__self__
        assert [piece.text for piece in file.pieces] == [
            library.id_to_piece(i) for i in range(library.vocab_size())
        ]
        scores = [library.get_score(i) for i in range(library.vocab_size())]
        np.testing.assert_array_equal([piece.score for piece in file.pieces], scores)
    for cut in (1, 5, len(data) // 2):
        with pytest.raises(ValueError, match="not a SentencePiece model"):
            read_pieces(data[:cut])
