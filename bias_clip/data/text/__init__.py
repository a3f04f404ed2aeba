from bias_clip.data.text.sentence_piece import (
    EOS_RULES,
    TextFn,
    canonicalize,
    load_tokenizer,
    make_text_fn,
    vocab_size,
)

__all__ = ["EOS_RULES", "TextFn", "canonicalize", "load_tokenizer", "make_text_fn", "vocab_size"]
