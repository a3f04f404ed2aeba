"""What a SentencePiece file holds: the pieces with scores and kinds, and how it normalizes a text.

The `sentencepiece` library encodes with a file, but does not tell which pieces are user-defined. The file is one
message of protocol buffers: fields of a number, a wire type and a value.
"""

import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

KINDS = {1: "normal", 2: "unknown", 3: "control", 4: "user", 5: "unused", 6: "byte"}
_BPE = 2  # of trainer_spec.model_type
# Numbers of fields, from sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_BLANKS = 2, 3, 4


class Piece(NamedTuple):
    """A piece: its text, the logarithm of its probability or minus its rank, and one of `KINDS`."""

    text: str
    score: float
    kind: str


class PieceFile(NamedTuple):
    """A file.

    Attributes:
      pieces: in the order of their ids.
      bpe: whether it merges pairs; else it is a unigram model or another.
      plain: whether it only makes blanks visible: no mapped characters, added or removed blanks.
    """

    pieces: list[Piece]
    bpe: bool
    plain: bool


def read_pieces(data: bytes) -> PieceFile:
    """Reads the bytes of a file that `parse_model` accepts.

    Raises:
      ValueError: the bytes are not such a message.
    """
    pieces = []
    trainer, normalizer = _Message(), _Message()
    for number, _, value in _fields(data):
        if number == _PIECES:
            found = _read(value)
            # Protocol buffers leave out fields with their default: a score of 0 and the kind "normal" (1).
            (score,) = struct.unpack("<f", found.data.get(2, bytes(4)))
            pieces.append(Piece(found.data[1].decode(), score, KINDS[found.numbers.get(3, 1)]))
        elif number == _TRAINER:
            trainer = _read(value)
        elif number == _NORMALIZER:
            normalizer = _read(value)
    # Absent, both are true.
    blanks = any(normalizer.numbers.get(name, 1) for name in (_DUMMY_PREFIX, _EXTRA_BLANKS))
    plain = not normalizer.data.get(_CHARSMAP) and not blanks
    return PieceFile(pieces, trainer.numbers.get(_MODEL_TYPE, 1) == _BPE, plain)


class _Message(NamedTuple):
    numbers: Mapping[int, int] = MappingProxyType({})  # by the number of the field
    data: Mapping[int, bytes] = MappingProxyType({})


def _read(data: bytes) -> _Message:
    numbers, strings = {}, {}
    for number, integer, value in _fields(data):
        numbers[number], strings[number] = integer, value
    return _Message(numbers, strings)


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields (number, value if it is an integer, value if it is a string)."""
    at = 0
    while at < len(data):
        # A key is (number << 3) | wire type: 0 a varint, 1 eight bytes, 2 a length and its bytes, 5 four
        # bytes.
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value, b""
            continue
        size = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("not a SentencePiece model: its fields are damaged.")
        yield key >> 3, 0, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        # Seven bits per byte, the lowest first; the highest bit says that another byte follows.
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise ValueError("not a SentencePiece model: it ends inside a number.")
