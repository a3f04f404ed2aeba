"""How a published checkpoint reads texts: vocabulary, case, punctuation, padding, length.

A model that reads texts by other rules than in training loses 2 to 50 points without an error. Therefore
the checkpoint's files and their layout's library decide, and a vocabulary that does not fit the model's
table is an error.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from bias_clip.core.registry import look_up, refuse_unknown
from bias_clip.data.text import (
    Vocabulary,
    load_vocabulary,
    read_vocabulary,
    text_fn_of,
    vocabulary_names,
)
from bias_clip.pretrained.preprocess import Files, read_table

# The files that `read_tokenizer` looks at.
TOKENIZER_FILES = (
    *(name for names in vocabulary_names() for name in names),
    "tokenizer_config.json",
    "config.json",
    "open_clip_config.json",
)
# Ids may be fewer than the table's rows, which some round up; 32,000 for BERT's 30,522 in CLIPA.
_LEAST_SHARE = 0.9
_OLD_EOS = 2  # in configs of transformers from before 2023, where it has no meaning
# The forms that open_clip's `clean` applies to a text before its tokenizer.
CLEAN = {"lower": "clip", "whitespace": "open_clip", "canonicalize": "open_clip_canonical"}
_OPEN_CLIP_KEYS = ("clean", "strip_sep_token")


class Tokenizer(NamedTuple):
    """How a checkpoint reads texts.

    Attributes:
      encode: from captions to int32 [n, length].
      length: of a text, in tokens.
      vocab_size: number of ids of the vocabulary.
      rules: arguments of `make_text_fn`, `tokenizer` and `length` among them, for a config.
      stated: the files that state this, and what was assumed or overridden.
    """

    encode: Callable[[Sequence[str]], Int32[np.ndarray, "n l"]]
    length: int
    vocab_size: int
    rules: dict[str, Any]
    stated: tuple[str, ...]


class _Found(NamedTuple):
    vocabulary: Vocabulary
    name: str  # what `load_vocabulary` takes
    stated: str


def read_tokenizer(
    files: Files,
    layout: str,
    *,
    family: str,
    length: int,
    vocab_size: int,
    tokenizer: str | None = None,
) -> Tokenizer:
    """Reads the tokenizer that belongs to a checkpoint.

    Args:
      files: of the checkpoint's folder by name, as paths or bytes; `TOKENIZER_FILES` suffice.
      layout: "big_vision", "hugging_face" or "open_clip".
      family: "siglip" or "clip".
      length: of the model's texts, the rows of its position table.
      vocab_size: rows of the model's table of tokens.
      tokenizer: a path as `load_vocabulary` takes it, to use instead of the folder's; the rules are
        still those of the layout and family.

    Raises: ValueError for a folder without a tokenizer, if the layout has no default (give
      `tokenizer`); for a vocabulary that does not fit `vocab_size` or the end-of-text id of
      `config.json`; for an unknown rule, with the file.
    Reference: transformers 5.24, open_clip 3.3 (tokenizer.py), big_vision (pp/ops_text.py).

        read_tokenizer({}, "open_clip", family="clip", length=77, vocab_size=49408).rules["form"]
        # "clip"
    """
    look_up("family", family, {"siglip": 0, "clip": 0})
    rules_of = look_up("layout", layout, _RULES)
    found = _find(files, layout, family, tokenizer)
    # Before any rule: a wrong vocabulary gives wrong texts without an error.
    _check_fit(found, vocab_size)
    if layout == "hugging_face" and family == "clip":
        _check_end(files, found)
    rules = {"length": length, **rules_of(files, family, found.vocabulary)}
    text_fn = text_fn_of(found.vocabulary, found.name, **rules)

    def encode(captions: Sequence[str]) -> Int32[np.ndarray, "n l"]:
        if isinstance(captions, str):
            raise ValueError(f"got one string, {captions[:40]!r}; expected a list of captions.")
        rows = [text_fn(caption) for caption in captions]
        return np.stack(rows) if rows else np.zeros((0, length), np.int32)

    said = (found.stated, f"the rules of {layout} for {family}")
    every = {"tokenizer": found.name, **rules}
    return Tokenizer(encode, length, found.vocabulary.size, every, said)


def _find(files: Files, layout: str, family: str, tokenizer: str | None) -> _Found:
    if tokenizer is not None:
        return _Found(load_vocabulary(tokenizer), tokenizer, f"the tokenizer {tokenizer}, as given")
    # open_clip ignores tokenizer files unless its config names a tokenizer of transformers.
    text = _open_clip_text(files)
    its_own = layout == "open_clip" and not text.get("hf_tokenizer_name")
    order = vocabulary_names() if layout == "big_vision" else _as_transformers(files)
    names = next((n for n in order if all(name in files for name in n)), None)
    if names is not None and not its_own:
        data = [_bytes(files[name]) for name in names]
        return _Found(read_vocabulary(data, names[0]), _path(files, names), " and ".join(names))
    if family == "clip" and (its_own or layout == "hugging_face"):
        return _Found(load_vocabulary("clip"), "clip", "CLIP's vocabulary of this package")
    wanted = text.get("hf_tokenizer_name") or "the SentencePiece model it was trained with"
    raise ValueError(
        f"the checkpoint brings no tokenizer; expected one of {list(vocabulary_names())} beside it. Give "
        f"tokenizer=, the path of {wanted}."
    )


def _as_transformers(files: Files) -> tuple[tuple[str, ...], ...]:
    """The files of vocabularies in the order in which transformers prefers them.

    `tokenizer.json` finds special tokens inside captions; SentencePiece reads them as text, which
    `split_special_tokens` asks for.
    """
    split = (read_table(files, "tokenizer_config.json") or {}).get("split_special_tokens", False)
    first, model, one, *rest = vocabulary_names()
    if not split:
        return (first, one, model, *rest)
    if {*first, *model}.isdisjoint(files):
        raise ValueError(
            "tokenizer_config.json has split_special_tokens, which needs a SentencePiece file; expected "
            f"{first[0]} or {model[0]} beside it. Give tokenizer=, its path."
        )
    return (first, model)


def _big_vision(files: Files, family: str, vocabulary: Vocabulary) -> dict[str, Any]:
    """Lower case of A to Z only; Gemma's vocabulary is padded with 0, the others with EOS."""
    pad = 0 if is_gemma(vocabulary) else vocabulary.eos
    return {"form": "ascii_lower", "lower": False, "pad": pad}


def _hugging_face(files: Files, family: str, vocabulary: Vocabulary) -> dict[str, Any]:
    if family == "siglip" and is_gemma(vocabulary):
        return {"form": "letter_lower", "lower": False, "pad": 0}
    if family == "siglip":
        return {"form": "siglip", "lower": False, "pad": vocabulary.eos}
    config = read_table(files, "tokenizer_config.json") or {}
    given = config.get("pad_token")
    name = given.get("content") if isinstance(given, dict) else given
    # Configs hold a token as text, or as a table with its text under "content".
    pad = vocabulary.token_id(name) if isinstance(name, str) else -1
    # Padding stands behind the end of the text and is never attended, but ids are compared.
    pad = vocabulary.eos if pad < 0 else pad
    return {"form": "clip_transformers", "lower": False, "pad": pad, "bos": True}


def _open_clip(files: Files, family: str, vocabulary: Vocabulary) -> dict[str, Any]:
    text = _open_clip_text(files)
    arguments = text.get("tokenizer_kwargs") or {}
    refuse_unknown("tokenizer_kwargs of open_clip_config.json", arguments, _OPEN_CLIP_KEYS)
    of_transformers = bool(text.get("hf_tokenizer_name"))
    default = "whitespace" if of_transformers else "lower"
    form = look_up("clean in open_clip_config.json", arguments.get("clean", default), CLEAN)
    if not of_transformers:
        return {"form": form, "lower": False, "pad": 0, "bos": True}
    if vocabulary.token_id("[SEP]") >= 0:
        # open_clip replaces the separator at the end by 0, the id of the padding.
        end = {"eos_id": 0} if arguments.get("strip_sep_token") else {}
        return {"form": form, "lower": False, "pad": 0, "bos": True, **end}
    if family == "siglip":
        rules = _hugging_face(files, family, vocabulary)
        # open_clip cleans first; then transformers' tokenizer applies its own form.
        return {**rules, "form": f"{form}|{rules['form']}"}
    raise ValueError(
        f"open_clip_config.json names the tokenizer {text['hf_tokenizer_name']!r}, whose rules are not "
        "known here; expected CLIP's, SigLIP's or BERT's. Call make_text_fn with its rules."
    )


_RULES = {"big_vision": _big_vision, "hugging_face": _hugging_face, "open_clip": _open_clip}


def is_gemma(vocabulary: Vocabulary) -> bool:
    """Whether it is SigLIP 2's: SigLIP 1's vocabularies have no first token."""
    return vocabulary.token_id("<bos>") >= 0


def _open_clip_text(files: Files) -> dict[str, Any]:
    config = read_table(files, "open_clip_config.json") or {}
    return (config.get("model_cfg") or config).get("text_cfg") or {}


def _check_fit(found: _Found, vocab_size: int) -> None:
    size = found.vocabulary.size
    if not _LEAST_SHARE * vocab_size <= size <= vocab_size:
        raise ValueError(
            f"{found.stated} has {size} ids, the model's table {vocab_size} rows; expected the tokenizer "
            "that the model was trained with."
        )


def _check_end(files: Files, found: _Found) -> None:
    config = (read_table(files, "config.json") or {}).get("text_config") or {}
    stated = config.get("eos_token_id", _OLD_EOS)
    ends = stated if isinstance(stated, list) else [stated]
    if _OLD_EOS not in ends and found.vocabulary.eos not in ends:
        raise ValueError(
            f"config.json says that a text ends with id {stated}, {found.stated} ends it with "
            f"{found.vocabulary.eos}; expected the same, because the model pools at that position."
        )


def _bytes(given: Path | bytes) -> bytes:
    return given if isinstance(given, bytes) else given.read_bytes()


def _path(files: Files, names: tuple[str, ...]) -> str:
    """The path by which a config can name the vocabulary; for bytes, the name of the file."""
    first = files[names[0]]
    if isinstance(first, bytes):
        return names[0]
    return str(first if len(names) == 1 else first.parent)
