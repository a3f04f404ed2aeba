"""A vocabulary: the pieces of texts and their ids, from any of the published file formats."""

import functools
import gzip
import io
import lzma
from collections.abc import Callable, Sequence
from importlib import resources
from typing import NamedTuple

from etils import epath
from sentencepiece import SentencePieceProcessor

from bias_clip.data.bad_records import record_fault
from bias_clip.data.text.byte_pairs import (
    clip_pieces,
    json_pieces,
    listed_files,
    listed_pieces,
    word_pieces,
)
from bias_clip.data.text.sentence_piece import parse_model

# Names that published vocabularies give to the first and the last token of a text.
_BOS = ("<|startoftext|>", "<start_of_text>", "[CLS]", "<bos>", "<s>")
_EOS = ("<|endoftext|>", "<end_of_text>", "[SEP]", "<eos>", "</s>")
# The first of these that a folder has is used. SentencePiece comes first because models were trained
# with it; the other files are conversions.
_NAMES = (
    ("spiece.model",),
    ("tokenizer.model",),
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)
_MAX_BYTES = 2**28  # of one file, unpacked: Gemma's tokenizer.json has 34 MB


class Vocabulary(NamedTuple):
    """Pieces and ids.

    Attributes:
      encode: maps a text to ids, without first and last token; safe to call from threads.
      size: number of ids, which is the number of rows of the embedding table.
      bos, eos: ids of the first and the last token of a text; -1 if there is none.
      token_id: maps the name of a token to its id; -1 if there is none of that name.
    """

    encode: Callable[[str], list[int]]
    size: int
    bos: int
    eos: int
    token_id: Callable[[str], int]


@functools.cache
def load_vocabulary(tokenizer: str) -> Vocabulary:
    """Loads a vocabulary; once per process.

    Args:
      tokenizer: "emoji" or "clip", which come with the package (the latter is the vocabulary of all
        published CLIP models); the path of a file, told by content: a SentencePiece model, a
        `tokenizer.json`, merges of CLIP (`merges.txt`, `bpe_simple_vocab_16e6.txt.gz`), or word
        pieces (`vocab.txt`); or a folder with such files.

    Raises: ValueError for a file that does not exist or is none of these.
    """
    if tokenizer in ("emoji", "clip"):
        return read_vocabulary([_packaged(tokenizer)], tokenizer)
    path = epath.Path(tokenizer)  # may be in a bucket: "gs://..."
    if tokenizer and path.is_dir():
        names = next((n for n in _NAMES if all((path / name).is_file() for name in n)), None)
        if names is None:
            raise ValueError(f"{tokenizer} has no tokenizer; expected one of {vocabulary_names()}.")
        return read_vocabulary([(path / name).read_bytes() for name in names], tokenizer)
    if not tokenizer or not path.is_file():
        raise ValueError(
            f"no tokenizer {tokenizer!r}: expected 'emoji', 'clip', or the path of a SentencePiece "
            ".model file, of a tokenizer.json, or of a folder with one."
        )
    return read_vocabulary([path.read_bytes()], tokenizer)


def vocabulary_names() -> tuple[tuple[str, ...], ...]:
    """Returns the files that hold a vocabulary in a checkpoint's folder, the preferred first."""
    return _NAMES


def vocabulary_files(tokenizer: str) -> dict[str, bytes]:
    """Returns the files of a vocabulary by the names that published checkpoints give them.

    Args:
      tokenizer: as `load_vocabulary` takes it.

    Raises: ValueError for a file that is not there, or whose form has no such name.
    """
    if tokenizer == "clip":
        return listed_files(_packaged(tokenizer))
    if tokenizer == "emoji":
        return {"spiece.model": _packaged(tokenizer)}
    path = epath.Path(tokenizer)
    if path.is_dir():
        names = next((n for n in _NAMES if all((path / name).is_file() for name in n)), ())
        return {name: (path / name).read_bytes() for name in names}
    if not path.is_file():
        raise ValueError(
            f"no tokenizer {tokenizer!r}: the file that the model was used with is gone."
        )
    data = _unpacked(path.read_bytes())
    if data[:1] == b"{":
        return {"tokenizer.json": data}
    if b"#version" in data[:64]:
        return listed_files(data)
    if data.startswith(b"[PAD]"):
        return {"vocab.txt": data}
    known = path.name in ("spiece.model", "tokenizer.model")
    return {path.name if known else "spiece.model": data}


def read_vocabulary(files: Sequence[bytes], name: str) -> Vocabulary:
    """Reads a vocabulary from the bytes of its file, or of `vocab.json` and `merges.txt`.

    Args:
      files: their contents.
      name: for the errors.

    Raises: ValueError if they are not a vocabulary of a known form.
    """
    # The library raises bare Exceptions for a bad file.
    with record_fault(f"{name!r} is not a tokenizer that can be read"):
        data = _unpacked(files[0])
        # By content, the forms with a fixed beginning first: SentencePiece's message has none, so it comes
        # last.
        if len(files) == 2:
            pieces = listed_pieces(data, files[1])
        elif data[:1] == b"{":
            pieces = json_pieces(data)
        elif b"#version" in data[:64] or name == "clip":
            pieces = clip_pieces(data)
        elif data.startswith(b"[PAD]"):
            pieces = word_pieces(data)
        else:
            model = parse_model(data, name)
            ends = model.bos_id(), model.eos_id()
            return Vocabulary(
                model.encode, model.vocab_size(), *ends, functools.partial(_piece_id, model)
            )
        ends = pieces.first_of(_BOS), pieces.first_of(_EOS)
        return Vocabulary(pieces.encode, pieces.size, *ends, lambda name: pieces.first_of((name,)))


def _piece_id(model: SentencePieceProcessor, name: str) -> int:
    found = model.piece_to_id(name)  # for an unknown piece: the id of <unk>
    return found if model.id_to_piece(found) == name else -1


def _packaged(tokenizer: str) -> bytes:
    folder = resources.files("bias_clip.data")
    if tokenizer == "clip":
        return lzma.decompress(folder.joinpath("text/clip_merges.txt.xz").read_bytes())
    return folder.joinpath("emoji/pack/emoji.model").read_bytes()


def _unpacked(data: bytes) -> bytes:
    """The bytes, unpacked if they are a gzip file."""
    if data[:2] != b"\x1f\x8b":
        return data
    with gzip.open(io.BytesIO(data)) as file:
        # One byte more than allowed shows a bomb without unpacking all of it.
        unpacked = file.read(_MAX_BYTES + 1)
    if len(unpacked) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes unpacked")
    return unpacked
