"""Exported folders: what is written beside the weights is read again as the same rules, or refused by name."""

import json
from functools import partial

import numpy as np
import pytest

from bias_clip.data.text import make_text_fn, read_vocabulary
from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.exports.export_card import Facts, Measured, model_card
from bias_clip.pretrained.exports.export_folder import Exported, export_folder
from bias_clip.pretrained.exports.export_images import (
    big_vision_images,
    hugging_face_images,
    open_clip_images,
)
from bias_clip.pretrained.exports.export_tokens import (
    big_vision_tokens,
    hugging_face_tokens,
    open_clip_tokens,
)
from bias_clip.pretrained.preprocess import read_preprocess
from bias_clip.pretrained.tokenizer import read_tokenizer
from tests.pretrained.cases import GOLDEN

CAPTIONS = ["A cat's 2 toys", "Été à la PLAGE!", "a " * 90]
SMOOTH = "method=bicubic,antialias=True"
CLIP = dict(
    tokenizer="clip", length=77, lower=False, bos=True, form="clip_transformers", pad=49_407
)
SIGLIP = dict(tokenizer="emoji", length=24, lower=False, form="siglip")


@pytest.mark.parametrize(
    "ops",
    [
        f"decode|drop_alpha|resize(32,{SMOOTH})|value_range(-1.0,1.0)",
        "decode|drop_alpha|resize(32,method=bilinear,antialias=True)|value_range(0.0,1.0)",
        f"decode|drop_alpha|resize_small(40,{SMOOTH},longer=below)|central_crop(32,middle=below)"
        "|normalize((0.1, 0.2, 0.3),(0.4, 0.5, 0.6))",
    ],
)
def test_the_preprocessing_of_transformers_is_read_again_as_the_same_operations(ops):
    written = hugging_face_images(ops, size=32)
    files = {name: json.dumps(table).encode() for name, table in written.files.items()}
    found = read_preprocess(files, "hugging_face", family="clip", size=32)
    assert (found.ops, written.notes) == (ops, ())


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_preprocessing_of_open_clip_is_read_again_as_the_same_operations(family):
    crop = f"resize_small(32,{SMOOTH},longer=below)|central_crop(32,middle=even)"
    inside = "resize_inside(32,method=bicubic,fill='#0a0b0c')"
    for shape in (crop, inside, f"resize(32,{SMOOTH})"):
        ops = f"decode|drop_alpha|{shape}|normalize((0.1, 0.2, 0.3),(0.4, 0.5, 0.6))"
        files = {"open_clip_config.json": json.dumps(open_clip_images(ops, size=32).files).encode()}
        assert read_preprocess(files, "open_clip", family=family, size=32).ops == ops


@pytest.mark.parametrize("write", [hugging_face_images, open_clip_images])
@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ("decode|gray|resize(32)|value_range(-1,1)", "operation gray has no place"),
        ("decode|resize(24)|value_range(-1,1)", "end in 24 pixels; the model takes 32"),
        ("decode|resize(32)", "have no value_range or normalize"),
        ("decode|resize(32, 40)|value_range(-1,1)", "a resize to 32 x 40 has no place"),
    ],
)
def test_an_operation_without_a_place_is_refused_by_name(write, ops, message):
    with pytest.raises(ValueError, match=message):
        write(ops, size=32)


def test_operations_of_one_layout_alone_are_refused_in_the_other():
    inside = "decode|resize_inside(32)|value_range(-1,1)"
    with pytest.raises(ValueError, match="resize_inside has no place in hugging_face"):
        hugging_face_images(inside, size=32)
    larger = "decode|resize_small(40,antialias=True)|central_crop(32)|value_range(-1,1)"
    with pytest.raises(ValueError, match="resize_small to 40 before a crop to 32"):
        open_clip_images(larger, size=32)


def test_what_processors_do_otherwise_is_noted():
    notes = hugging_face_images(
        "decode|background(white)|resize(32)|value_range(-1,1)", size=32
    ).notes
    assert "transparent images on white" in notes[0]
    assert "without antialias" in notes[1]
    big = "decode|drop_alpha|resize(32)|value_range(-1,1)"
    assert big_vision_images(big, size=32).notes == ()
    assert "no file of preprocessing" in big_vision_images(big.replace("-1", "0"), size=32).notes[0]


def _read_again(written, layout, rules, **sizes):
    files = {
        name: data if isinstance(data, bytes) else json.dumps(data).encode()
        for name, data in written.files.items()
    }
    found = read_tokenizer(files, layout, length=rules["length"], **sizes)
    text_fn = make_text_fn(**rules)
    np.testing.assert_array_equal(found.encode(CAPTIONS), [text_fn(c) for c in CAPTIONS])


def test_tokenizers_of_transformers_are_read_again_as_the_same_ids():
    written = hugging_face_tokens(CLIP, clip=True)
    assert written.notes == ()
    assert written.files["merges.txt"].startswith(b"#version: 0.2\ni n\n")
    _read_again(written, "hugging_face", CLIP, family="clip", vocab_size=49_408)
    written = hugging_face_tokens(SIGLIP, clip=False)
    assert written.notes == ()
    size = read_vocabulary([written.files["spiece.model"]], "x").size
    _read_again(written, "hugging_face", SIGLIP, family="siglip", vocab_size=size)


def test_a_published_rule_that_transformers_changes_is_noted():
    (note,) = hugging_face_tokens({**SIGLIP, "form": "ascii_lower"}, clip=False).notes
    assert "drops ASCII punctuation" in note
    (note,) = hugging_face_tokens({**CLIP, "form": "clip"}, clip=True).notes
    assert "HTML entities" in note


def test_clip_needs_no_files_in_open_clip_and_bert_does(tmp_path):
    rules = {**CLIP, "form": "clip", "pad": 0}
    written = open_clip_tokens(rules, clip=True)
    assert written.files == {"text_cfg": {}}
    _read_again(
        open_clip_tokens(rules, clip=True), "open_clip", rules, family="clip", vocab_size=49_408
    )
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "toy"])
    )
    path = str(tmp_path / "vocab.txt")
    bert = dict(tokenizer=path, length=8, lower=False, form="open_clip", pad=0, bos=True, eos_id=0)
    written = open_clip_tokens(bert, clip=True)
    assert written.files["text_cfg"]["tokenizer_kwargs"]["strip_sep_token"] is True
    config = {"open_clip_config.json": {"model_cfg": {"text_cfg": written.files["text_cfg"]}}}
    again = written._replace(files={"vocab.txt": written.files["vocab.txt"], **config})
    _read_again(again, "open_clip", bert, family="clip", vocab_size=6)


@pytest.mark.parametrize(
    ("write", "rules", "message"),
    [
        ("siglip", {**SIGLIP, "form": "plain"}, "form of the texts is 'plain'; the hugging_face"),
        ("siglip", {**SIGLIP, "pad": 0}, "pad of the texts is 0"),
        ("siglip", {**SIGLIP, "tokenizer": "clip"}, "tokenizer of the texts is 'clip'"),
        ("clip", {**CLIP, "lower": True}, "lower of the texts is True"),
        ("clip", {**CLIP, "bos": False}, "bos of the texts is False"),
        ("clip", {**CLIP, "tokenizer": "emoji"}, "tokenizer of the texts is 'emoji'"),
        (
            "open_clip",
            {**CLIP, "tokenizer": "emoji", "bos": True},
            "tokenizer of the texts is 'emoji'",
        ),
        ("open_clip", {**CLIP, "form": "siglip"}, "form of the texts is 'siglip'; the open_clip"),
    ],
)
def test_a_rule_for_texts_without_a_place_is_refused_by_name(write, rules, message):
    writers = {
        "open_clip": partial(open_clip_tokens, clip=True),
        "clip": partial(hugging_face_tokens, clip=True),
        "siglip": partial(hugging_face_tokens, clip=False),
    }
    with pytest.raises(ValueError, match=message):
        writers[write](rules)


def test_big_vision_states_the_rules_in_words():
    written = big_vision_tokens(SIGLIP)
    assert set(written.files) == {"spiece.model"}
    assert "form='siglip'" in written.notes[0]


def test_nothing_is_written_when_a_part_is_refused_and_parts_may_be_left_out(tmp_path):
    loaded = load_pretrained(GOLDEN / "bv_i18n_no_head")
    texts = {**SIGLIP, "form": "plain"}
    model = Exported(loaded.params, loaded.config, loaded.preprocess.ops, texts, Facts("m", ()))
    with pytest.raises(ValueError, match="leave the tokenizer out"):
        export_folder(model, tmp_path / "out", layout="hugging_face")
    assert not (tmp_path / "out").exists()
    notes = export_folder(model, tmp_path / "out", layout="hugging_face", leave_out=["tokenizer"])
    assert any("tokenizer was left out" in note for note in notes)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert "tokenizer was left out" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(ValueError, match="already and not empty"):
        export_folder(model, tmp_path / "out", layout="big_vision")


def test_the_card_states_what_is_known_and_says_what_is_not():
    row = Measured("zero-shot", "top 1", "21.6 %", "chance 0.0 %")
    facts = Facts("m", ("Step 4.",), ("Source: x.",), ("Balanced by weights.",), (row,))
    card = model_card(facts, "hugging_face", ["A note."], images="decode", texts=SIGLIP)
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in (
        "Source: x.",
        "Balanced by weights.",
        "| zero-shot | top 1 | 21.6 % |",
        "* A note.",
    ):
        assert part in card
    assert "No bias was measured" in card
    assert "form='siglip'" in card
    assert "emoji" not in card
