"""Data sets of TensorFlow Datasets, prepared as ArrayRecord and read without TensorFlow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bias_clip.data.records import Record, Source

Getter = Callable[[Mapping[str, Any]], Any]


def tfds_source(
    *,
    dataset: str,
    split: str,
    image_key: str = "image",
    text_key: str = "text",
    id_key: str | None = None,
    attribute_keys: Sequence[str] = (),
    data_dir: str | None = None,
    download: bool = False,
) -> Source:
    """Reads a data set of TensorFlow Datasets by name.

    A key may be a path, such as "captions/text"; a class label becomes its name. `split` may be a
    slice, "train[:1%]". Without `id_key` the id of a record is "dataset/split/index". With
    `download` the data set is fetched and prepared first.

    Raises: ValueError for an unknown data set, split or key, a data set that is not prepared as
      ArrayRecord, and missing files.

        source = tfds_source(dataset="cifar10", split="test", text_key="label")
    """
    builder = _builder(dataset, data_dir)
    if download:
        builder.download_and_prepare()
    _check_splits(builder, dataset, split)
    getters = {
        "image": lambda row: _at(row, image_key),
        "captions": _captions_getter(builder.info.features, text_key),
        **{key: _getter(builder.info.features, key) for key in attribute_keys},
    }
    # Only for its error: a wrong key fails now and not at the first record.
    _getter(builder.info.features, image_key)
    if id_key is not None:
        get_id = _getter(builder.info.features, id_key)
        getters["id"] = lambda row: str(get_id(row))
    rows = builder.as_data_source(split, decoders=_skip_decoding(image_key))
    return _TfdsRecords(rows, getters, f"{dataset}/{split}")


class _TfdsRecords:
    """Rows of a prepared data set as records; images stay encoded."""

    def __init__(self, rows: Sequence[Any], getters: Mapping[str, Getter], name: str):
        self._rows = rows
        self._getters = getters
        self._name = name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        name = f"{self._name}/{index}"
        try:
            row = self._rows[index]
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"cannot read {name}: {error}") from error
        return {"id": name, **{key: get(row) for key, get in self._getters.items()}}


def _builder(dataset: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds  # not at the top: 0.7 s, and only this source needs it

    try:
        return tfds.builder(dataset, data_dir=data_dir, file_format="array_record")
    except tfds.core.DatasetNotFoundError as error:
        reason = str(error).splitlines()[0]  # the rest lists the whole catalogue
        raise ValueError(f"TFDS in {data_dir or 'its folder'}: {reason}") from error
    except ValueError as error:
        raise ValueError(
            f"cannot use the TFDS data set {dataset!r}: {error}. Expected one prepared with "
            "file_format='array_record'; others need TensorFlow."
        ) from error


def _check_splits(builder: Any, dataset: str, split: str) -> None:
    splits = builder.info.splits
    if not splits:
        raise ValueError(
            f"the TFDS data set {dataset!r} is not prepared in {builder.data_path}: prepare it with "
            "file_format='array_record', or pass download=True."
        )
    for name in (part.split("[")[0].strip() for part in split.split("+")):
        if name not in splits:
            raise ValueError(
                f"{dataset!r} has no split {name!r}, expected one of {sorted(splits)}."
            )
        present = {path.name for path in builder.data_path.iterdir()}
        missing = [p.name for p in splits[name].filepaths if p.name not in present]
        if missing:
            raise ValueError(f"{dataset!r} lacks files in {builder.data_path}: {missing[:5]}.")


def _skip_decoding(key: str) -> dict[str, Any]:
    """Keeps images encoded until the pipeline's threads decode them."""
    import tensorflow_datasets as tfds

    decoders: Any = tfds.decode.SkipDecoding()
    for part in reversed(key.split("/")):
        decoders = {part: decoders}
    return decoders


def _getter(features: Any, key: str) -> Getter:
    """A function from a row to the value at a path of keys; a class label becomes its name."""
    feature = features
    for part in key.split("/"):
        feature = getattr(feature, "feature", feature)  # the inside of a sequence
        if not hasattr(feature, "keys") or part not in feature:
            raise ValueError(f"no feature {key!r}, the data set has {list(features)}.")
        feature = feature[part]
    # Only class labels have `int2str`.
    to_name = getattr(feature, "int2str", lambda value: value)
    return lambda row: to_name(_plain(_at(row, key)))


def _captions_getter(features: Any, key: str) -> Getter:
    get = _getter(features, key)

    def captions(row: Mapping[str, Any]) -> tuple[str, ...]:
        value = get(row)
        return (value,) if isinstance(value, str) else tuple(str(_plain(v)) for v in value)

    return captions


def _at(row: Any, key: str) -> Any:
    for part in key.split("/"):
        row = row[part]
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return value.item() if getattr(value, "ndim", None) == 0 else value
