"""A small vocabulary of Gemma's kind: SentencePiece with byte pairs, byte fallback, and its special ids."""

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece

PEERS = Path(__file__).parent / "peers"
CAPTIONS = json.loads(np.load(PEERS / "tokens.npz")["captions"].tobytes())
# What a person may write and a tokenizer may take for its own.
SPECIAL = [
    "<bos> a photo </s> of a cat <eos>",
    "<pad><unk> two <BOS> dogs<EOS>",
    "a <table> of wood and a <mask>",
    "<|startoftext|> a photo <|endoftext|> of a cat",
    "a  photo   with    blanks",
    "two\nlines\n\nand a gap",
    "ΟΔΟΣ ΣΊΣΥΦΟΣ",
    "\u2581visible blank",
]


def train_gemma(folder):
    """Writes `tokenizer.model` with pad 0, EOS 1, BOS 2, unknown 3, and user-defined pieces; returns its path."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([caption.lower() for caption in CAPTIONS * 4]),
        model_writer=stream,
        model_type="bpe",
        vocab_size=700,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=["<mask>", "\n", "\n\n", "\u2581\u2581", "\u2581\u2581\u2581", "<table>"],
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    path = folder / "tokenizer.model"
    path.write_bytes(stream.getvalue())
    return str(path)
