"""The tokenizer of a checkpoint against ids of the libraries that published it."""

import json
import lzma
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers

from bias_clip.data.text import load_vocabulary, make_text_fn, vocab_size
from bias_clip.pretrained.tokenizer import read_tokenizer
from tests.data.tiny import train_tokenizer

PEERS = np.load(Path(__file__).parent / "peers" / "tokens.npz", allow_pickle=False)
CAPTIONS = json.loads(PEERS["captions"].tobytes())
DATA = resources.files("bias_clip.data")
EMOJI = DATA.joinpath("emoji/pack/emoji.model").read_bytes()
MERGES = b"#version: 0.2\n" + lzma.decompress(DATA.joinpath("text/clip_merges.txt.xz").read_bytes())
CLIP = {"family": "clip", "length": 77, "vocab_size": 49_408}


@pytest.fixture(scope="module")
def clip_files():
    """The files of CLIP as transformers writes them, made from the vocabulary that ships here."""
    ids = {load_vocabulary("clip").token_id(t): t for t in ("<start_of_text>", "<end_of_text>")}
    assert ids == {49_406: "<start_of_text>", 49_407: "<end_of_text>"}
    tokenizer = load_vocabulary("clip").encode.__self__.tokenizer
    names = {token: i for token, i in tokenizer.get_vocab().items() if i < 49_406}
    names |= {"<|startoftext|>": 49_406, "<|endoftext|>": 49_407}
    return {"vocab.json": json.dumps(names).encode(), "merges.txt": MERGES}


def open_clip(**text):
    return {"open_clip_config.json": json.dumps({"model_cfg": {"text_cfg": text}}).encode()}


def equal(tokenizer, expected):
    got = tokenizer.encode(CAPTIONS)
    assert got.dtype == np.int32
    differ = [c for c, a, b in zip(CAPTIONS, got, expected, strict=True) if (a != b).any()]
    assert differ == []
    if tokenizer.rules["tokenizer"] not in ("spiece.model", "vocab.json"):  # given as bytes
        from_config = make_text_fn(**tokenizer.rules)
        np.testing.assert_array_equal(from_config(CAPTIONS[3]), expected[3])


def test_clip_of_open_clip_needs_no_file():
    equal(read_tokenizer({}, "open_clip", **CLIP), PEERS["open_clip"])


def test_open_clip_says_how_to_clean():
    files = open_clip(tokenizer_kwargs={"clean": "canonicalize"})
    equal(read_tokenizer(files, "open_clip", **CLIP), PEERS["open_clip_canonicalize"])


def test_clip_of_transformers(clip_files, tmp_path):
    equal(read_tokenizer(clip_files, "hugging_face", **CLIP), PEERS["transformers_clip"])
    for name, data in clip_files.items():
        (tmp_path / name).write_bytes(data)
    paths = {name: tmp_path / name for name in clip_files}
    equal(read_tokenizer(paths, "hugging_face", **CLIP), PEERS["transformers_clip"])


def test_clip_of_transformers_as_one_file(clip_files, tmp_path):
    for name, data in clip_files.items():
        (tmp_path / name).write_bytes(data)
    one = tmp_path / "tokenizer.json"
    load_vocabulary(str(tmp_path)).encode.__self__.tokenizer.save(str(one))
    # A file that was saved while it padded and cut.
    saved = Tokenizer.from_file(str(one))
    saved.enable_truncation(5)
    saved.enable_padding(length=9)
    saved.save(str(one))
    files = {"tokenizer.json": one}
    equal(read_tokenizer(files, "hugging_face", **CLIP), PEERS["transformers_clip"])


def test_siglip_of_transformers():
    size = vocab_size("emoji")
    found = read_tokenizer(
        {"spiece.model": EMOJI}, "hugging_face", family="siglip", length=24, vocab_size=size
    )
    equal(found, PEERS["transformers_siglip"])


def gemma(tmp_path):
    """A vocabulary with the ids and the normalization of Gemma's: byte fallback, blanks as U+2581."""
    letters = [chr(c) for c in range(32, 127) if not chr(c).isupper()]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581"]
    ids = {
        token: i
        for i, token in enumerate([*tokens, *(x for x in letters if x != " "), "\u2581cat"])
    }
    merges = []
    tokenizer = Tokenizer(
        models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path, ids


def test_siglip_2_keeps_punctuation_lowers_and_pads_with_0(tmp_path):
    path, ids = gemma(tmp_path)
    files = {"tokenizer.json": path}
    sizes = {"family": "siglip", "length": 12, "vocab_size": len(ids)}
    found = read_tokenizer(files, "hugging_face", **sizes)
    expected = [*(ids[x] for x in "a\u2581cat!"), 1, 0, 0, 0, 0, 0]
    assert found.encode(["A Cat!"])[0].tolist() == expected
    long = found.encode(["a" * 40])[0].tolist()
    assert long == [ids["a"]] * 11 + [1]
    assert found.encode(["É"])[0].tolist()[:3] == [ids["<0xC3>"], ids["<0xA9>"], 1]  # "é"
    files |= open_clip(hf_tokenizer_name="timm/x", tokenizer_kwargs={"clean": "canonicalize"})
    found = read_tokenizer(files, "open_clip", **sizes)
    assert found.encode(["A Cat!"])[0].tolist() == [*expected[:5], 1, 0, 0, 0, 0, 0, 0]


def test_big_vision_lowers_ascii_alone_and_takes_the_model_that_is_given(tmp_path):
    path = train_tokenizer(tmp_path)
    sizes = {"family": "siglip", "length": 8, "vocab_size": vocab_size(path)}
    with pytest.raises(ValueError, match=r"brings no tokenizer.*Give tokenizer="):
        read_tokenizer({}, "big_vision", **sizes)
    found = read_tokenizer({}, "big_vision", tokenizer=path, **sizes)
    plain = make_text_fn(tokenizer=path, length=8, lower=False)
    np.testing.assert_array_equal(found.encode(["A Red CAT"])[0], plain("a red cat"))
    np.testing.assert_array_equal(found.encode(["ÉTÉ!"])[0], plain("ÉtÉ!"))
    assert found.rules["pad"] == 1
    pads = read_tokenizer(
        {},
        "big_vision",
        tokenizer=str(gemma(tmp_path)[0]),
        family="siglip",
        length=8,
        vocab_size=357,
    )
    assert pads.rules["pad"] == 0


def test_clipa_has_word_pieces_whose_end_is_0(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat", "##s", "!"]
    files = {"vocab.txt": "\n".join(words).encode() + b"\n"}
    files |= open_clip(
        hf_tokenizer_name="bert-base-uncased", tokenizer_kwargs={"strip_sep_token": True}
    )
    found = read_tokenizer(files, "open_clip", family="clip", length=6, vocab_size=8)
    assert found.encode(["A  cats!", "a a a a a a a", "dog"]).tolist() == [
        [2, 4, 5, 6, 7, 0],
        [2, 4, 4, 4, 4, 0],
        [2, 1, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("size", [49_407, 60_000, 32_000, 256_000])
def test_a_tokenizer_that_does_not_fit_the_table_is_refused(size):
    with pytest.raises(ValueError, match=rf"has 49408 ids, the model's table {size} rows"):
        read_tokenizer({}, "open_clip", **{**CLIP, "vocab_size": size})


def test_a_text_that_ends_elsewhere_than_the_model_looks_is_refused(clip_files):
    for stated, fits in (
        (2, True),
        (49_407, True),
        ([2, 5], True),
        ([49_407, 3], True),
        (49_406, False),
    ):
        config = {"config.json": json.dumps({"text_config": {"eos_token_id": stated}}).encode()}
        if fits:
            read_tokenizer(clip_files | config, "hugging_face", **CLIP)
            continue
        with pytest.raises(ValueError, match="says that a text ends with id 49406"):
            read_tokenizer(clip_files | config, "hugging_face", **CLIP)


def test_the_padding_that_the_files_name_is_used(clip_files):
    for given in ("!", {"content": "!", "lstrip": False}):
        config = {"tokenizer_config.json": json.dumps({"pad_token": given}).encode()}
        found = read_tokenizer(clip_files | config, "hugging_face", **CLIP)
        assert found.encode(["a"])[0].tolist()[:5] == [49_406, 320, 49_407, 0, 0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"spiece.model": b"nothing"}, "not a SentencePiece model"),
        ({"tokenizer.json": b"{}"}, "'tokenizer.json' is not a tokenizer"),
        ({"tokenizer.json": b'{"model": {"type": "X"}}'}, "'tokenizer.json' is not a tokenizer"),
        ({"vocab.json": b"{}", "merges.txt": b"a b\n"}, "none of the pairs"),
        ({"vocab.json": b"[", "merges.txt": b""}, "'vocab.json' is not a tokenizer"),
        (
            {"vocab.json": b'{"<|startoftext|>": 0, "<|endoftext|>": 1}', "merges.txt": b"a b c\n"},
            "expected two",
        ),
        (
            {"vocab.json": b'{"<|startoftext|>": 0, "<|endoftext|>": 1}', "merges.txt": b"a b\n"},
            "is not a tokenizer",
        ),
        ({"vocab.txt": b"[PAD]\n\xff"}, "'vocab.txt' is not a tokenizer"),
    ],
)
def test_files_that_are_no_tokenizer_are_refused_with_their_name(files, message):
    with pytest.raises(ValueError, match=message):
        read_tokenizer(files, "hugging_face", **CLIP)


def test_rules_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="reduction_mask"):
        read_tokenizer(
            open_clip(tokenizer_kwargs={"reduction_mask": "syntax"}), "open_clip", **CLIP
        )
    files = open_clip(hf_tokenizer_name="roberta-base") | {"spiece.model": EMOJI}
    with pytest.raises(ValueError, match=r"roberta-base.*rules are not known"):
        read_tokenizer(files, "open_clip", family="clip", length=8, vocab_size=vocab_size("emoji"))
    with pytest.raises(ValueError, match="one string"):
        read_tokenizer({}, "open_clip", **CLIP).encode("a cat")
