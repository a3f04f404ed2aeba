"""A config from its file, and as JSON."""

import importlib.util
import inspect
import json
import runpy
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections


def load_config(path: Path, *arguments: str) -> ml_collections.ConfigDict:
    """Returns `get_config(*arguments)` of a config file, which may be in any folder.

    The file may import its neighbours, by their names or through the folder's name, and the example
    configs, for instance `configs.emoji`. A neighbour takes precedence over an example of its name.

    Raises:
      ValueError: the file does not exist, or has no `get_config` that takes these arguments.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise ValueError(f"there is no config file {path}; --config takes FILE or FILE:ARGUMENT.")
    # The folder itself goes last: a config named json.py must not hide the standard library's.
    before = list(sys.path)
    _offer_examples(path.parent)
    sys.path[:] = [str(path.parent.parent), *before, str(path.parent)]
    try:
        get_config: Any = runpy.run_path(str(path)).get("get_config")
        _check_signature(path, get_config, arguments)
        return get_config(*arguments)
    finally:
        sys.path[:] = before


def split_spec(spec: str) -> tuple[Path, list[str]]:
    """Returns (file, arguments of its get_config) of "FILE" or "FILE:ARGUMENT"."""
    path, colon, argument = spec.partition(":")
    return Path(path), [argument] if colon else []


def to_plain(value: Any) -> Any:
    """Returns a config, or part of one, as dicts and lists that JSON can hold.

    Keys keep the order of the config file, because the report shows evaluators in that order.
    """
    if isinstance(value, ml_collections.ConfigDict):
        return json.loads(value.to_json())  # items() would sort the keys
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(value: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the config that `to_plain` turned into `value`."""
    # Through JSON, so that a loaded config has the same types as one that was saved and read.
    return ml_collections.ConfigDict(json.loads(json.dumps(value)))


def _offer_examples(folder: Path) -> None:
    """Makes `configs` importable if neither a checkout nor the folder's own name does."""
    loaded = sys.modules.get("configs")
    if loaded is None and (folder.name == "configs" or importlib.util.find_spec("configs")):
        return
    if loaded is not None and not hasattr(loaded, "offered"):
        return
    package: Any = types.ModuleType("configs")
    installed = Path(__file__).parent.parent / "configs"
    examples = installed if installed.is_dir() else Path(__file__).parents[2] / "configs"
    package.__path__, package.offered = [str(folder), str(examples)], True
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        del sys.modules[name]  # loaded before, from another folder
    sys.modules["configs"] = package


def _check_signature(path: Path, get_config: Any, arguments: tuple[str, ...]) -> None:
    if not callable(get_config):
        raise ValueError(f"{path} defines no function get_config(), which returns the config.")
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        given = f"{':'.join(arguments)!r} after the colon" if arguments else "nothing after a colon"
        raise ValueError(
            f"got {given}, but get_config{inspect.signature(get_config)} of {path} cannot be called "
            f"with that: {error}."
        ) from error
