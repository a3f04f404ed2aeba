"""Captions to token ids: the form of the text, its first and last token, its length, its padding."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int32

from bias_clip.core.registry import look_up
from bias_clip.data.bad_records import record_fault
from bias_clip.data.text.forms import FORMS
from bias_clip.data.text.vocabulary import Vocabulary, load_vocabulary

TextFn = Callable[[str], Int32[np.ndarray, " l"]]
EOS_RULES = ("sticky", "cut", "none")


def make_text_fn(
    *,
    tokenizer: str,
    length: int,
    lower: bool = True,
    pad: int = 1,
    eos: str = "sticky",
    form: str = "plain",
    bos: bool = False,
    eos_id: int | None = None,
) -> TextFn:
    """Makes the function from a caption to `length` token ids.

    `ids = [BOS] + encode(lower(form(text))) + [EOS]`, cut or padded with `pad` to `length`. If the
    text is too long, `eos="sticky"` puts EOS at the last position, and "cut" drops it. "none" never
    appends EOS.

    Args:
      tokenizer: see `load_vocabulary`.
      length: of the result, in tokens.
      lower: lower case of all letters, after `form`.
      pad: id of the padding.
      eos: see above.
      form: a key of `FORMS`, or several as in "open_clip|siglip": how a published recipe normalizes a
        text first.
      bos: the text begins with the vocabulary's first token, as for CLIP.
      eos_id: the id of EOS, if it is not that of the vocabulary: 0 for CLIPA.

    Returns: a function of the text alone, safe to call from threads; it raises ValueError for a text
      that cannot be encoded.
    Raises: ValueError for a tokenizer that cannot be read or lacks a token, or a wrong argument.
    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, and the published
      models: lower case, 64 tokens, pad = EOS = 1, sticky EOS, no BOS.

        text_fn = make_text_fn(tokenizer="emoji", length=16)
        text_fn("A waving hand").shape   # (16,)
    """
    rules: dict[str, Any] = {"lower": lower, "pad": pad, "eos": eos, "form": form, "bos": bos}
    return text_fn_of(load_vocabulary(tokenizer), tokenizer, length=length, eos_id=eos_id, **rules)


def text_fn_of(
    vocabulary: Vocabulary,
    name: str,
    *,
    length: int,
    lower: bool = True,
    pad: int = 1,
    eos: str = "sticky",
    form: str = "plain",
    bos: bool = False,
    eos_id: int | None = None,
) -> TextFn:
    """Like `make_text_fn`, for a vocabulary that is already loaded; `name` is for errors."""
    # Everything is checked when the function is made: a wrong id would train without an error.
    _check(name, vocabulary, length=length, pad=pad, eos=eos, bos=bos, eos_id=eos_id)
    shapes = [look_up("form", part, FORMS) for part in form.split("|")]
    end = [] if eos == "none" else [vocabulary.eos if eos_id is None else eos_id]
    start = [vocabulary.bos] if bos else []

    def text_fn(text: str) -> Int32[np.ndarray, " l"]:
        with record_fault("cannot tokenize a caption"):
            # Forms before lower case: a repaired entity may give a capital letter.
            for shape in shapes:
                text = shape(text)
            ids = start + vocabulary.encode(text.lower() if lower else text) + end
        out = np.full(length, pad, np.int32)
        # A text that is too long fills the array: a slice beyond its end is cut.
        out[: len(ids)] = ids[:length]
        # The pooled position must hold EOS also for a text that was cut.
        if eos == "sticky" and len(ids) > length:
            out[-1] = end[0]
        return out

    return text_fn


def vocab_size(tokenizer: str) -> int:
    """Returns the number of ids of a tokenizer, the rows of the embedding table."""
    return load_vocabulary(tokenizer).size


def _check(
    tokenizer: str,
    vocabulary: Vocabulary,
    *,
    length: int,
    pad: int,
    eos: str,
    bos: bool,
    eos_id: int | None,
) -> None:
    if eos not in EOS_RULES:
        raise ValueError(f"got eos={eos!r}, expected one of {EOS_RULES}.")
    if length < 1:
        raise ValueError(f"got length={length}, expected at least 1 token.")
    if not 0 <= pad < vocabulary.size:
        raise ValueError(f"got pad={pad}, expected an id below {vocabulary.size}.")
    if eos_id is not None and not 0 <= eos_id < vocabulary.size:
        raise ValueError(f"got eos_id={eos_id}, expected an id below {vocabulary.size}.")
    if eos != "none" and eos_id is None and vocabulary.eos < 0:
        raise ValueError(
            f"the tokenizer {tokenizer!r} has no EOS piece: use eos='none', or a model with one."
        )
    if bos and vocabulary.bos < 0:
        raise ValueError(f"the tokenizer {tokenizer!r} has no BOS piece: use bos=False.")
