from bias_clip.data.text.forms import FORMS, canonicalize
from bias_clip.data.text.sentence_piece import load_tokenizer
from bias_clip.data.text.text_fn import EOS_RULES, TextFn, make_text_fn, text_fn_of, vocab_size
from bias_clip.data.text.vocabulary import (
    Vocabulary,
    load_vocabulary,
    read_vocabulary,
    vocabulary_files,
    vocabulary_names,
)

__all__ = [
    "EOS_RULES",
    "FORMS",
    "TextFn",
    "Vocabulary",
    "canonicalize",
    "load_tokenizer",
    "load_vocabulary",
    "make_text_fn",
    "read_vocabulary",
    "text_fn_of",
    "vocab_size",
    "vocabulary_files",
    "vocabulary_names",
]
