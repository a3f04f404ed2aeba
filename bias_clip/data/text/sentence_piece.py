"""SentencePiece models: c4_en, mc4 and Gemma's of the SigLIP family, and the one of this package."""

import functools
from importlib import resources

from etils import epath
from sentencepiece import SentencePieceProcessor


@functools.cache
def load_tokenizer(model: str) -> SentencePieceProcessor:
    """Loads a SentencePiece model: "emoji", which ships with the package, or the path of a file.

    Returns: the processor; loaded once per process.
    Raises: ValueError if there is no such file or it is not a SentencePiece model.
    """
    if model == "emoji":
        data = resources.files("bias_clip.data").joinpath("emoji/pack/emoji.model").read_bytes()
    elif model and epath.Path(model).is_file():  # may be in a bucket: "gs://..."
        data = epath.Path(model).read_bytes()
    else:
        raise ValueError(
            f"no tokenizer {model!r}: expected 'emoji' or the path of a SentencePiece .model file."
        )
    return parse_model(data, model)


def parse_model(data: bytes, name: str) -> SentencePieceProcessor:
    """Returns the processor of a model's bytes; raises ValueError, with `name`, for other bytes."""
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a SentencePiece model: {error}") from error
    return processor
