"""Gemma's vocabulary as the `tokenizer.json` and `tokenizer_config.json` that transformers reads for SigLIP 2."""

import json
from collections.abc import Mapping
from typing import Any

from bias_clip.data.text.sentence_piece_file import Piece, read_pieces

_BLANK = "\u2581"
_NAMES = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}


def gemma_files(files: Mapping[str, bytes], length: int) -> dict[str, Any]:
    """Returns `tokenizer.json`, `tokenizer_config.json`, and the SentencePiece file if there is one.

    Args:
      files: of the vocabulary: `tokenizer.json`, or SentencePiece by any other name.
      length: of a text, in tokens.

    Raises:
      ValueError: the SentencePiece model is not of Gemma's kind.
    """
    if "tokenizer.json" in files:
        whole = json.loads(files["tokenizer.json"])
        own = [token for token in whole["added_tokens"] if token["special"]]
        kept: dict[str, Any] = {}
    else:
        (data,) = files.values()
        whole, own = _converted(data), []
        # SentencePiece does not see special tokens inside a caption; by this word, transformers does not either.
        # Reading the folder again, the word selects the SentencePiece file.
        kept = {"tokenizer.model": data}
    ids = whole["model"]["vocab"]
    # Lengths and padding are of the model that reads it, see `model_max_length`.
    whole |= {"truncation": None, "padding": None, "post_processor": _with_end(ids)}
    names = {key: name if name in ids else None for key, name in _NAMES.items()}
    special = {token["content"] for token in own}
    config = {
        "tokenizer_class": "Siglip2Tokenizer",
        # As for SigLIP: padding is read as text.
        "model_input_names": ["input_ids"],
        "model_max_length": length,
        "padding_side": "right",
        "split_special_tokens": bool(kept),
        **names,
        # transformers would add the default name as a new id where the vocabulary has none.
        "mask_token": "<mask>" if "<mask>" in special else None,
        "added_tokens_decoder": {
            str(token["id"]): {k: v for k, v in token.items() if k != "id"}
            for token in whole["added_tokens"]
        },
    }
    dumped = json.dumps(whole, ensure_ascii=False).encode()
    return {**kept, "tokenizer.json": dumped, "tokenizer_config.json": config}


def _converted(data: bytes) -> dict[str, Any]:
    """A SentencePiece model of byte pairs as a table of the `tokenizers` library."""
    file = read_pieces(data)
    if not file.bpe or not file.plain:
        raise ValueError(
            "The SentencePiece model has <bos>, as Gemma's, but is not of byte pairs with untouched blanks; "
            "transformers' tokenizer of SigLIP 2 cannot say it. Leave the tokenizer out."
        )
    ids = {piece.text: i for i, piece in enumerate(file.pieces)}
    added = [
        _added(i, piece)
        for i, piece in enumerate(file.pieces)
        if piece.kind in ("control", "unknown", "user")
    ]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK},
        "pre_tokenizer": None,
        "decoder": None,
        "model": {**model, "vocab": ids, "merges": _merges(file.pieces, ids)},
    }


def _added(i: int, piece: Piece) -> dict[str, Any]:
    # A user-defined piece is cut out of the normalized text, as SentencePiece does.
    user = piece.kind == "user"
    rest = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": i, "content": piece.text, **rest, "normalized": user, "special": not user}


def _merges(pieces: list[Piece], ids: Mapping[str, int]) -> list[list[str]]:
    """Each pair whose union is a piece, the best union first; SentencePiece merges by this score."""
    found = []
    for piece in pieces:
        if piece.kind != "normal":
            continue
        cuts = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        found += [
            # Ids break ties, so that the same vocabulary gives the same bytes.
            (-piece.score, ids[left], ids[right], left, right)
            for left, right in cuts
            if left in ids and right in ids
        ]
    return [[left, right] for *_, left, right in sorted(found)]


def _with_end(ids: Mapping[str, int]) -> dict[str, Any]:
    """The rule that a text ends with <eos>, and begins with nothing."""
    end = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {
            "<eos>": {"id": "<eos>", "ids": [ids["<eos>"]], "tokens": ["<eos>"]},
        },
    }
