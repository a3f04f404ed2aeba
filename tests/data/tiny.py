"""Small synthetic data: a source of colour patches with captions, a SentencePiece model."""

import io
from pathlib import Path

import numpy as np
import sentencepiece

WORDS = ("red", "green", "blue", "large", "small", "cat", "dog", "hand", "tree", "house")


class Patches:
    """`count` images of 6x5 noise, each with two captions; the ids in `bad` are broken."""

    def __init__(self, count, *, bad=(), per_record=1):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (count, per_record, 6, 5, 3), dtype=np.uint8)
        self.bad = frozenset(bad)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        images = tuple(self.images[index])
        first, second = WORDS[index % 10], WORDS[index // 10 % 10]
        return {
            "id": f"patch{index}",
            "image": b"broken" if index in self.bad else images if len(images) > 1 else images[0],
            "captions": (f"a {first} {second}", f"{second} {first}"),
            "number": index,
        }


def train_tokenizer(folder: Path) -> str:
    """A model of about sixty pieces with EOS = 1, as SigLIP's."""
    stream = io.BytesIO()
    sentences = [f"a {a} {b}" for a in WORDS for b in WORDS]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=stream,
        vocab_size=60,
        unk_id=0,
        eos_id=1,
        bos_id=-1,
        pad_id=-1,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    path = folder / "tiny.model"
    path.write_bytes(stream.getvalue())
    return str(path)
