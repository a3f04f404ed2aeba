"""Turns words into prompts: each word in all templates; several prompts are averaged."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from bias_clip.evals.encode import Encode
from bias_clip.evals.quality.zeroshot import class_embeddings, template_formats


def word_prompts(
    words: Sequence[str | Sequence[str]], templates: str | Sequence[str]
) -> list[list[str]]:
    """The prompts of each word or set of synonyms: every synonym in every template.

    Args:
      words: strings, or lists of strings with the same meaning.
      templates: a name in `zeroshot.TEMPLATES`, or strings with one "{}".

    Raises:
      ValueError: unknown templates, no words, a word without letters.
    """
    formats = template_formats(templates)
    if isinstance(words, str) or not words:
        raise ValueError(f"words are {words!r}; expected a list of at least one.")
    sets = [[word] if isinstance(word, str) else list(word) for word in words]
    blank = [s for s in sets if not s or not all(isinstance(w, str) and w.strip() for w in s)]
    if blank:
        raise ValueError(f"words hold {blank[0]!r}; expected strings that are not blank.")
    return [[format_.replace("{}", w) for format_ in formats for w in s] for s in sets]


def prompt_embeddings(encode: Encode, prompts: Sequence[Sequence[str]]) -> Float[np.ndarray, "c d"]:
    """One unit vector per list of prompts, see `class_embeddings`; lists may differ in length."""
    z = encode.texts([text for texts in prompts for text in texts])
    ends = np.cumsum([len(texts) for texts in prompts])[:-1]
    # Each set by itself, [1, t, d], because sets of synonyms differ in length.
    return np.concatenate([class_embeddings(part[None]) for part in np.split(z, ends)])
