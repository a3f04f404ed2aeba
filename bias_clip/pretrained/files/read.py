"""Reads weights of any known format, recognised by the first bytes of the file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from bias_clip.pretrained.files import npz, pt, safetensors, zips
from bias_clip.pretrained.files.tensors import Mapped, Tensor


class Weights(NamedTuple):
    """The tensors of one or several files, by name, and a function that releases the memory they took."""

    tensors: dict[str, Tensor]
    release: Callable[[], None]


def read_weights(paths: list[Path]) -> Weights:
    """All tensors of `paths`: one file, or the shards of one checkpoint.

    Raises:
      ValueError: a file of unknown format, or a damaged one; a tensor that is in two files.
    """
    maps = [Mapped(path) for path in paths]
    tensors: dict[str, Tensor] = {}
    for mapped in maps:
        found = _read(mapped)
        if twice := sorted(set(found) & set(tensors)):
            raise ValueError(
                f"{mapped.path}: tensor {twice[0]!r} is in {tensors[twice[0]].file} too."
            )
        tensors |= found

    def release() -> None:
        for mapped in maps:
            mapped.release()

    return Weights(tensors, release)


def shard_names(index: Path) -> dict[str, str]:
    """Maps tensors to file names, from a `model.safetensors.index.json`.

    Raises:
      ValueError: the file is not such an index, or a name leads out of the folder.
    """
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} is not an index of shards: {error!r}.") from None
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} is not an index of shards: its weight_map is {names!r:.40}.")
    for name in names.values():
        # Names come from a downloaded file: none may lead out of the folder, on Windows neither.
        if not isinstance(name, str) or Path(name).name != name or "\\" in name or name == "..":
            raise ValueError(f"{index} names the file {name!r}; expected a name without a folder.")
    return names


def check_shards(index: Path, names: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the files hold exactly the tensors that the index lists for each."""
    for name in sorted(set(names) | set(tensors)):
        got = tensors[name].file if name in tensors else "no file"
        if names.get(name) != got:
            raise ValueError(
                f"{index.parent / got}: tensor {name!r} is in {got}, and in {names.get(name, 'no file')} "
                f"by {index.name}. Download the folder again."
            )


def _read(mapped: Mapped) -> dict[str, Tensor]:
    if zips.looks_like(mapped):
        members = zips.members(mapped)
        # Both are zip archives; only torch's has a pickle.
        return pt.read(mapped) if any(n.endswith("data.pkl") for n in members) else npz.read(mapped)
    if safetensors.looks_like(mapped):
        return safetensors.read(mapped)
    if pt.looks_like(mapped):
        pt.refuse_pickle(mapped)
    return safetensors.read(mapped)  # the default: raises if the file is not of this format
