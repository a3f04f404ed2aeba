"""Finds the extra of setup.py that installs a missing package, as a command to type."""

_EXTRAS = {
    "train": (
        "PIL absl array_record etils flax ftfy grain importlib_resources jinja2 ml_collections "
        "msgpack optax orbax pyarrow sentencepiece tensorboardX tensorflow_datasets "
        "tokenizers tqdm"
    ),
    "gcs": "gcsfs",
    "s3": "s3fs",
    "http": "aiohttp fsspec",
    "hub": "huggingface_hub",
    "quality": "imagehash py3langid",
    "tpu": "libtpu",
    "experiments": "matplotlib sklearn",
    "build": "resvg_py",
    "beam": "apache_beam",
}


def extra_of(module: str) -> str | None:
    """Returns the extra that installs a module, or None if no extra does."""
    top = module.partition(".")[0]
    return next((extra for extra, names in _EXTRAS.items() if top in names.split()), None)


def what_is_missing(error: ModuleNotFoundError) -> str | None:
    """Returns the command to type for a module that cannot be imported; None if no extra has it."""
    extra = extra_of(error.name or "")
    if extra is None:
        return None
    return f'this needs {error.name}, which is not installed: pip install "bias_clip[{extra}]"'
