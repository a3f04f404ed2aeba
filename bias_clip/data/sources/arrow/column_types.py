"""The kinds of values in the columns of Arrow schemas, and whether several files agree on them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from bias_clip.data.sources.arrow.shards import Shard

# Kinds that one column may mix, and the kind of the result.
_TOGETHER = (
    {"integer", "number"},
    {"text", "list of text"},
    {"bytes", "image"},
    {"image", "list of image"},
)


def kind_of(type_: pa.DataType) -> str:
    """The kind of a type: all ways to store text are one kind, and so are all integer types."""
    # Categories are only a way to store their values.
    if types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if types.is_struct(type_):
        names = {type_.field(i).name for i in range(type_.num_fields)}
        # {bytes, path} is how Hugging Face data sets store an image.
        return "image" if "bytes" in names else "object"
    if types.is_map(type_):
        return "object"
    if any(
        check(type_) for check in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    ):
        return f"list of {kind_of(type_.value_type)}"
    return next((kind for kind, check in _CHECKS.items() if check(type_)), str(type_))


def reconcile(name: str, shards: Sequence[Shard]) -> None:
    """Raises ValueError, with both files, if a column's types cannot be read as one type."""
    seen = dict[str, Shard]()
    for shard in shards:
        if name in shard.schema.names:
            seen.setdefault(kind_of(shard.schema.field(name).type), shard)
    # A shard in which the column is empty has no type of its own, and fits any other.
    seen.pop("null", None)
    if len(seen) > 1 and set(seen) not in _TOGETHER:
        (one, first), (other, second) = list(seen.items())[:2]
        raise ValueError(
            f"the column {name!r} is {one} in {first.path} and {other} in {second.path}; write one of "
            "them again, or name the columns to keep, without it, by `attributes`."
        )


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of class labels, by column, as Hugging Face data sets store them beside the schema."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}  # another use of the key: keep the integers
    if not isinstance(features, Mapping):
        return {}
    return {name: labels for name, feature in features.items() if (labels := _names(feature))}


def _names(feature: Any) -> list[str] | None:
    if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return [str(name) for name in names] if isinstance(names, list) else None
    return None


_CHECKS = {
    "null": types.is_null,
    "text": lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t),
    "integer": types.is_integer,
    "number": types.is_floating,
    "boolean": types.is_boolean,
    "fixed bytes": types.is_fixed_size_binary,
    "bytes": lambda t: types.is_binary(t) or types.is_large_binary(t) or types.is_binary_view(t),
    "time": types.is_temporal,
    "decimal": types.is_decimal,
}
