"""How published recipes normalize a text before tokenization.

Each family of models has its own form, and a checkpoint that is used with another loses accuracy silently.
Two forms need `ftfy`, which repairs text that was decoded with the wrong encoding ("cafÃ©").
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
    """Normalizes prompts and class names: no punctuation, lower case, single blanks.

    Underscores become blanks; `keep` is a string that does not change, such as the "{}" of a prompt
    template. Only for zero-shot prompts and class names, not for training captions.

    Reference: Zhai et al., LiT: Zero-Shot Transfer with Locked-image text Tuning, 2022.

        canonicalize("A photo_of  a {}.", keep="{}")   # "a photo of a {}"
    """
    parts = text.replace("_", " ").split(keep) if keep else [text.replace("_", " ")]
    # Punctuation goes from the parts between: "{" and "}" are punctuation themselves.
    text = keep.join(part.translate(_NO_PUNCTUATION) for part in parts)
    return re.sub(r"\s+", " ", text.lower()).strip()


def plain(text: str) -> str:
    """Returns the text unchanged."""
    return text


def ascii_lower(text: str) -> str:
    """Lower case of only the letters A to Z, as in big_vision's training: "ÉTÉ" becomes "ÉtÉ"."""
    return text.translate(_ASCII_LOWER)


def letter_lower(text: str) -> str:
    """Lower case of each letter by itself, as in the SigLIP 2 tokenizer of transformers.

    A final sigma becomes an ordinary one, whereas Python lowers it as the end of a word.
    """
    # Letter by letter, because `str.lower` looks at the neighbours of a sigma.
    return "".join(letter.lower() for letter in text)


def siglip(text: str) -> str:
    """Like the SigLIP 1 processor of transformers: lower case, no ASCII punctuation, single blanks.

    Underscores are removed, whereas `canonicalize` makes them blanks.
    """
    return re.sub(r"\s+", " ", text.lower().translate(_NO_PUNCTUATION)).strip()


def clip(text: str) -> str:
    """Like open_clip for CLIP: repaired, entities resolved twice, single blanks, lower case."""
    return open_clip(text).lower()


def open_clip(text: str) -> str:
    """Like open_clip for case-sensitive tokenizers: repaired, entities resolved, single blanks."""
    return " ".join(_mended(text).split())


def open_clip_canonical(text: str) -> str:
    """Like open_clip for SigLIP: repaired, entities resolved, then `canonicalize`."""
    return canonicalize(_mended(text))


def clip_transformers(text: str) -> str:
    """Like the CLIP tokenizer of transformers: composed letters, single blanks, lower case.

    Each letter is lowered by itself, so that a final sigma becomes an ordinary one.
    """
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text))
    return letter_lower(text)


FORMS: Mapping[str, Callable[[str], str]] = {
    form.__name__: form
    for form in (
        plain,
        ascii_lower,
        canonicalize,
        letter_lower,
        siglip,
        clip,
        clip_transformers,
        open_clip,
        open_clip_canonical,
    )
}


def _mended(text: str) -> str:
    # Printable ASCII without entities needs no repair, and ftfy takes longer than everything else.
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()
