"""The forms into which published recipes bring a text before it is cut into tokens.

Each family of models has its own, and a checkpoint that is read with another loses accuracy silently.
Two of them need `ftfy`, which mends text that was decoded with the wrong table ("cafÃ©").
"""

import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping

import ftfy

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


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


def plain(text: str) -> str:
    """The text as it is."""
    return text


def ascii_lower(text: str) -> str:
    """Lower case of the letters A to Z alone, as big_vision trained: "ÉTÉ" becomes "ÉtÉ"."""
    return text.translate(_ASCII_LOWER)


def siglip(text: str) -> str:
    """As the SigLIP 1 processor of transformers: lower case, no ASCII punctuation, single blanks.

    Underscores vanish, where `canonicalize` makes them blanks.
    """
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def clip(text: str) -> str:
    """As open_clip for CLIP: mended, entities resolved twice, single blanks, lower case."""
    return open_clip(text).lower()


def open_clip(text: str) -> str:
    """As open_clip for tokenizers that keep the case: mended, entities resolved, single blanks."""
    return " ".join(_mended(text).split())


def open_clip_canonical(text: str) -> str:
    """As open_clip for SigLIP: mended, entities resolved, then `canonicalize`."""
    return canonicalize(_mended(text))


def clip_transformers(text: str) -> str:
    """As the CLIP tokenizer of transformers: composed letters, single blanks, lower case.

    Letter by letter, so that a final sigma is an ordinary one.
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return "".join(letter.lower() for letter in text)


FORMS: Mapping[str, Callable[[str], str]] = {
    form.__name__: form
    for form in (
        plain,
        ascii_lower,
        canonicalize,
        siglip,
        clip,
        clip_transformers,
        open_clip,
        open_clip_canonical,
    )
}


def _mended(text: str) -> str:
    # Printable ASCII without entities has nothing to mend, and ftfy takes longer than all the rest.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
