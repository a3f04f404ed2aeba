"""Captions to token ids by the SigLIP rule, with any SentencePiece model."""

import functools
import re
import string
from collections.abc import Callable
from importlib import resources

import numpy as np
from etils import epath
from jaxtyping import Int32
from sentencepiece import SentencePieceProcessor

from bias_clip.data.bad_records import record_fault

TextFn = Callable[[str], Int32[np.ndarray, " l"]]
EOS_RULES = ("sticky", "cut", "none")


def make_text_fn(
    *, tokenizer: str, length: int, lower: bool = True, pad: int = 1, eos: str = "sticky"
) -> TextFn:
    """Makes the function from a caption to `length` token ids.

    `ids = encode(lower(text)) + [EOS]`, cut or padded with `pad` to `length`. What happens to EOS
    when the text is too long is `eos`: "sticky" puts it in the last place, "cut" loses it; "none"
    appends none at all.

    Returns: a function of the text alone, safe to call from threads.
    Raises: ValueError for a tokenizer that cannot be read or has no EOS, or a wrong argument.
    Reference: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, and the published
      models: lower case, 64 tokens, pad = EOS = 1, sticky EOS, no BOS.

        text_fn = make_text_fn(tokenizer="emoji", length=16)
        text_fn("A waving hand").shape   # (16,)
    """
    model = load_tokenizer(tokenizer)
    _check(tokenizer, model, length=length, pad=pad, eos=eos)
    end = [model.eos_id()] if eos != "none" else []

    def text_fn(text: str) -> Int32[np.ndarray, " l"]:
        with record_fault("cannot tokenize a caption"):
            ids = model.encode(text.lower() if lower else text) + end
        out = np.full(length, pad, np.int32)
        out[: len(ids)] = ids[:length]
        if eos == "sticky" and len(ids) > length:
            out[-1] = end[0]
        return out

    return text_fn


def vocab_size(tokenizer: str) -> int:
    """Returns the number of pieces of a tokenizer, the rows of the embedding table."""
    return load_tokenizer(tokenizer).vocab_size()


@functools.cache
def load_tokenizer(model: str) -> SentencePieceProcessor:
    """Loads a SentencePiece model: "emoji", which ships with the package, or the path of a file.

    Returns: the processor; loaded once per process.
    Raises: ValueError when there is no such file or it is not a SentencePiece model.
    """
    if model == "emoji":
        data = resources.files("bias_clip.data").joinpath("emoji/pack/emoji.model").read_bytes()
    elif model and epath.Path(model).is_file():  # a bucket, too: "gs://..."
        data = epath.Path(model).read_bytes()
    else:
        raise ValueError(
            f"no tokenizer {model!r}: expected 'emoji' or the path of a SentencePiece .model file."
        )
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise ValueError(f"{model!r} is not a SentencePiece model: {error}") from error
    return processor


def canonicalize(text: str, *, keep: str = "") -> str:
    """Brings prompts and class names to one form: no punctuation, lower case, single blanks.

    Underscores become blanks; `keep` is a string that stays as it is, such as the "{}" of a prompt
    template. For zero-shot prompts and class names only: training captions stay as they are.

    Reference: Zhai et al., LiT: Zero-Shot Transfer with Locked-image text Tuning, 2022.

        canonicalize("A photo_of  a {}.", keep="{}")   # "a photo of a {}"
    """
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    text = keep.join(part.translate(_NO_PUNCTUATION) for part in parts)
    return re.sub(r"\s+", " ", text.lower()).strip()


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _check(
    tokenizer: str, model: SentencePieceProcessor, *, length: int, pad: int, eos: str
) -> None:
    if eos not in EOS_RULES:
        raise ValueError(f"got eos={eos!r}, expected one of {EOS_RULES}.")
    if length < 1:
        raise ValueError(f"got length={length}, expected at least 1 token.")
    if not 0 <= pad < model.vocab_size():
        raise ValueError(f"got pad={pad}, expected an id below {model.vocab_size()}.")
    if eos != "none" and model.eos_id() < 0:
        raise ValueError(
            f"the tokenizer {tokenizer!r} has no EOS piece: use eos='none', or a model with one."
        )
