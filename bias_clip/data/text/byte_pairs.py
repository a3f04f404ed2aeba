"""Byte pairs and word pieces through the `tokenizers` library: CLIP's, Gemma's and BERT's.

CLIP's vocabulary follows from its 48,894 merges: the 256 bytes, the same bytes at the end of a word,
the merges in order, then the first and the last token of a text.
"""

import json
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

# The order of bytes that GPT-2 introduced: printable ones first, then the others.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTES = [*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE)]
_MERGES = 48_894
_END = "</w>"
# The same two tokens as open_clip and as transformers write them.
_SPECIAL = (("<start_of_text>", "<end_of_text>"), ("<|startoftext|>", "<|endoftext|>"))
# Words of CLIP: endings of English, letters, one digit at a time, and runs of what is neither.
_WORDS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class Pieces(NamedTuple):
    """A tokenizer of the `tokenizers` library."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without first and last token."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @property
    def size(self) -> int:
        """The number of ids, including those of added tokens."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def first_of(self, names: tuple[str, ...]) -> int:
        """Returns the id of the first name that is a token; -1 if none is."""
        ids = (self.tokenizer.token_to_id(name) for name in names)
        return next((found for found in ids if found is not None), -1)


def clip_pieces(merges: bytes) -> Pieces:
    """CLIP's tokenizer of open_clip, from the lines of its merges (a first line of version is cut)."""
    lines = merges.decode().split("\n")
    lines = lines[1:] if "#version" in lines[0] else lines
    pairs = _pairs(lines[:_MERGES])  # the published file has more merges, which no model uses
    letters = [_letter(byte) for byte in _BYTES]
    tokens = [*letters, *(letter + _END for letter in letters), *map("".join, pairs), *_SPECIAL[0]]
    return _byte_pairs({token: i for i, token in enumerate(tokens)}, pairs, _SPECIAL[0])


def listed_files(merges: bytes) -> dict[str, bytes]:
    """`vocab.json` and `merges.txt` of transformers, from the lines of CLIP's merges."""
    ids = clip_pieces(merges).tokenizer.get_vocab(with_added_tokens=True)
    renamed = dict(zip(*_SPECIAL, strict=True))
    listed = {renamed.get(token, token): ids[token] for token in sorted(ids, key=ids.__getitem__)}
    lines = merges.decode().split("\n")
    # The file may lack its line of version, which transformers' reader skips without looking.
    lines = (lines[1:] if "#version" in lines[0] else lines)[:_MERGES]
    text = "\n".join(["#version: 0.2", *lines]) + "\n"
    return {
        "vocab.json": json.dumps(listed, ensure_ascii=False).encode(),
        "merges.txt": text.encode(),
    }


def listed_pieces(vocab: bytes, merges: bytes) -> Pieces:
    """CLIP's tokenizer of transformers, from `vocab.json` and `merges.txt`."""
    ids = json.loads(vocab)
    special = next((pair for pair in _SPECIAL[::-1] if set(pair) <= ids.keys()), ())
    if not special:
        raise ValueError(
            f"vocab.json has none of the pairs {list(_SPECIAL)} of first and last token"
        )
    lines = merges.decode().split("\n")
    return _byte_pairs(ids, _pairs(lines[1:] if "#version" in lines[0] else lines), special)


def json_pieces(data: bytes) -> Pieces:
    """The tokenizer of a `tokenizer.json`, with the normalization that it states."""
    tokenizer = Tokenizer.from_buffer(data)
    # The text function sets length and padding, so drop those that the file was saved with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Pieces(tokenizer)


def word_pieces(vocab: bytes) -> Pieces:
    """BERT's uncased word pieces, from the lines of `vocab.txt`; CLIPA and OpenVision have them."""
    words = vocab.decode().rstrip("\n").split("\n")
    ids = {word.rstrip("\r"): i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return Pieces(tokenizer)


def _byte_pairs(
    ids: dict[str, int], merges: list[tuple[str, str]], special: tuple[str, ...]
) -> Pieces:
    tokenizer = Tokenizer(models.BPE(ids, merges, end_of_word_suffix=_END))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # Both libraries recognise special tokens inside captions, too.
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return Pieces(tokenizer)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    pairs = [line.split(" ") for line in lines if line.strip()]
    strange = next((pair for pair in pairs if len(pair) != 2), None)
    if strange is not None:
        raise ValueError(f"got the merge {strange}, expected two pieces per line")
    return [(left, right.rstrip("\r")) for left, right in pairs]


def _letter(byte: int) -> str:
    """The character that stands for a byte: itself, or one from 256 on for what cannot be shown."""
    return chr(byte) if byte in _PRINTABLE else chr(256 + _BYTES.index(byte) - len(_PRINTABLE))
