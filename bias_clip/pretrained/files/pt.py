"""Reads archives of `torch.save` without torch and without pickle: only tensors, nothing else.

An archive is a zip of a pickle, which describes the tensors, and plain files of numbers. A pickle is a
program. Here a separate interpreter runs it, which knows only the instructions that build numbers, strings,
lists and dictionaries, and the few names in `_CALLS` and `_STORAGES`. It stops at any other name or
instruction, before it builds anything from it.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bias_clip.pretrained.files import zips
from bias_clip.pretrained.files.tensors import Mapped, Tensor, as_tensor

_STORAGES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Double": "<f8",
        "Float": "<f4",
        "Half": "<f2",
        "BFloat16": ml_dtypes.bfloat16,
        "Long": "<i8",
        "Int": "<i4",
        "Short": "<i2",
        "Char": "i1",
        "Byte": "u1",
        "Bool": "?",
    }.items()
}
_USE_ANOTHER = "Use the safetensors file of the same weights, or save the state_dict alone."
_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch < 1.6 begin


class _Name(NamedTuple):
    """A name in the pickle; it is never imported."""

    text: str


class _Storage(NamedTuple):
    dtype: np.dtype
    start: int  # in the archive
    numel: int


class _State(NamedTuple):
    """The state of the interpreter."""

    stack: list[Any]
    marks: list[int]
    memo: dict[int, Any]
    storage: Callable[[Any], _Storage]
    tensor: Callable[..., Tensor]


def looks_like(mapped: Mapped) -> bool:
    """Whether the file begins like a pickle: the format of torch before 1.6, or hostile."""
    return mapped.bytes(0, 1) == b"\x80"


def refuse_pickle(mapped: Mapped) -> None:
    """Raises ValueError: a pickle that is not in an archive is not read."""
    old = "the form of torch before 1.6" if mapped.bytes(0, 15) == _OLD_MAGIC else "not an archive"
    raise ValueError(
        f"{mapped.path} is a bare pickle ({old}), which can run code when it is read; nothing of it was "
        f"read. {_USE_ANOTHER}"
    )


def read(mapped: Mapped) -> dict[str, Tensor]:
    """The tensors of a state_dict by name: the file's own, or one stored beside an optimiser's.

    A leading "module.", which training on several devices adds to all names, is removed.

    Raises:
      ValueError: TorchScript, a whole module, any name except those of tensors, a tensor outside its
        storage, or a storage outside the archive.
    """
    members = zips.members(mapped)
    folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise ValueError(
            f"{mapped.path} is an archive with {len(folders)} files data.pkl; expected the one that "
            "torch.save writes."
        )
    folder = folders[0]
    if any(
        name == f"{folder}constants.pkl" or name.startswith(f"{folder}code/") for name in members
    ):
        raise ValueError(
            f"{mapped.path} is a TorchScript archive (the form of OpenAI's own files), a program and not "
            "a list of tensors. Use the safetensors file of the same weights."
        )
    order = members.get(f"{folder}byteorder")
    # Older archives have no such member, and are little-endian.
    if order is not None and zips.unpack(mapped, order) != b"little":
        raise ValueError(f"{mapped.path} was written high byte first; expected low byte first.")
    found = _run(mapped, zips.unpack(mapped, members[f"{folder}data.pkl"]), members, folder)
    return _state_dict(mapped, found)


def _state_dict(mapped: Mapped, found: Any) -> dict[str, Tensor]:
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{mapped.path} holds no table of tensors. {_USE_ANOTHER}")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{mapped.path}: {name!r} is not a tensor, but {type(value).__name__}. {_USE_ANOTHER}"
            )
    # Only if all names have it: a model may have a part that is called module.
    prefix = "module." if all(name.startswith("module.") for name in found) else ""
    return {name.removeprefix(prefix): value for name, value in found.items()}


def _run(mapped: Mapped, program: bytes, members: dict[str, zips.Member], folder: str) -> Any:
    """Builds what the pickle describes, with views of the archive as tensors."""

    def storage(reference: Any) -> _Storage:
        return _checked_storage(mapped, members, folder, reference)

    def tensor(*args: Any) -> Tensor:
        return _checked_tensor(mapped, *args)

    state = _State([], [], {}, storage, tensor)
    try:
        # `genops` only parses: it never imports, calls or builds anything.
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return state.stack.pop()
            if opcode.name not in _OPCODES:
                raise ValueError(f"the instruction {opcode.name} has no place in a list of tensors")
            _OPCODES[opcode.name](state, argument)
    # A damaged program pops from an empty stack, or counts what is not a list.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{mapped.path}: {error}. Nothing of it was run or built. {_USE_ANOTHER}"
        ) from None
    raise ValueError(f"{mapped.path}: the description of the tensors has no end. {_USE_ANOTHER}")


def _checked_storage(
    mapped: Mapped, members: dict[str, zips.Member], folder: str, reference: Any
) -> _Storage:
    kind, name, key, _, numel = reference
    if kind != "storage" or not isinstance(name, _Name) or name.text not in _STORAGES:
        raise ValueError(f"expected the storage of a tensor, got {reference!r}")
    dtype, member = _STORAGES[name.text], members.get(f"{folder}data/{key}")
    if member is None or not member.stored:
        raise ValueError(f"storage {key!r} is absent, or packed, which torch does not do")
    if type(numel) is not int or numel < 0 or numel * dtype.itemsize > member.size:
        raise ValueError(
            f"storage {key!r} claims {numel} numbers of {dtype}, and has {member.size} bytes"
        )
    return _Storage(dtype, member.start, numel)


def _checked_tensor(
    mapped: Mapped, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> Tensor:
    """A view with the given strides, because tensors may be transposed, sliced, expanded or tied."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(type(x) is int and x >= 0 for x in numbers):
        raise ValueError(f"a tensor of offset {offset!r}, size {size!r}, stride {stride!r}")
    if len(size) != len(stride) or len(size) > 32:
        raise ValueError(f"a tensor of size {size!r} and stride {stride!r}")
    # The last number that the view can reach, which must lie in its storage.
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    empty = math.prod(size) == 0
    if not empty and last >= storage.numel:
        raise ValueError(f"a tensor reaches number {last} of a storage of {storage.numel}")
    width = storage.dtype.itemsize
    if math.prod(size) * width > mapped.size:  # expanded: a stride of 0 costs nothing in the file
        raise ValueError(f"a tensor of size {size!r} is larger than its file")
    strides = tuple(step * width for step in stride)
    start = storage.start + (0 if empty else offset * width)
    view = mapped.view(storage.dtype, tuple(size), start, None if empty else strides)
    return as_tensor(mapped.name, view)


# -- the instructions, each a function of the state and the instruction's argument ----------------


def _push(state: _State, value: Any) -> None:
    state.stack.append(value)


def _mark(state: _State, _: Any) -> None:
    state.marks.append(len(state.stack))


def _since_mark(state: _State) -> list[Any]:
    start = state.marks.pop()
    values = state.stack[start:]
    del state.stack[start:]
    return values


def _take(state: _State, count: int) -> tuple[Any, ...]:
    if count > len(state.stack):
        raise IndexError("the description takes more values than there are")
    values = tuple(state.stack[len(state.stack) - count :])
    del state.stack[len(state.stack) - count :]
    return values


def _append(state: _State, values: list[Any]) -> None:
    target = state.stack[-1]
    if type(target) is not list:
        raise TypeError("the description appends to what is not a list")
    target.extend(values)


def _set(state: _State, pairs: list[Any]) -> None:
    target = state.stack[-1]
    if type(target) is not dict or len(pairs) % 2:
        raise TypeError("the description sets an item of what is not a dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, (str, int, float, type(None))):
            raise TypeError(f"a key of type {type(key).__name__}")
        target[key] = value


def _name(state: _State, text: str) -> None:
    if text not in _CALLS and text not in _STORAGES:
        what = "a whole module" if text.startswith("torch.nn.") else "not part of a tensor"
        raise ValueError(f"it names {text}, which is {what}")
    state.stack.append(_Name(text))


def _stack_global(state: _State, _: Any) -> None:
    module, name = _take(state, 2)
    _name(state, f"{module}.{name}")


def _reduce(state: _State, _: Any) -> None:
    function, arguments = _take(state, 2)
    if (
        not isinstance(function, _Name)
        or function.text not in _CALLS
        or type(arguments) is not tuple
    ):
        raise ValueError("it calls what is not the constructor of a tensor")
    state.stack.append(_CALLS[function.text](state, *arguments))


def _build(state: _State, _: Any) -> None:
    state.stack.pop()  # `_metadata` of a state_dict, which only torch uses
    if type(state.stack[-1]) is not dict:
        raise ValueError("it sets attributes of what is not a dictionary")


def _memoize(state: _State, place: int | None) -> None:
    state.memo[len(state.memo) if place is None else place] = state.stack[-1]


def _ordered_dict(_: _State, *arguments: Any) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else []
    if len(arguments) > 1 or type(pairs) is not list:
        raise ValueError("it makes a dictionary of what is not a list of pairs")
    return {str(key): value for key, value in pairs}


def _rebuild_tensor(state: _State, *arguments: Any) -> Tensor:
    return state.tensor(*arguments)


def _rebuild_parameter(_: _State, *arguments: Any) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise ValueError("it makes a parameter of what is not a tensor")
    return arguments[0]


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}

_OPCODES: dict[str, Callable[[_State, Any], None]] = {
    "PROTO": lambda state, _: None,
    "FRAME": lambda state, _: None,
    "NONE": lambda state, _: _push(state, None),
    "NEWTRUE": lambda state, _: _push(state, True),
    "NEWFALSE": lambda state, _: _push(state, False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _push),
    "EMPTY_DICT": lambda state, _: _push(state, {}),
    "EMPTY_LIST": lambda state, _: _push(state, []),
    "EMPTY_TUPLE": lambda state, _: _push(state, ()),
    "TUPLE": lambda state, _: _push(state, tuple(_since_mark(state))),
    "TUPLE1": lambda state, _: _push(state, _take(state, 1)),
    "TUPLE2": lambda state, _: _push(state, _take(state, 2)),
    "TUPLE3": lambda state, _: _push(state, _take(state, 3)),
    "MARK": _mark,
    "APPEND": lambda state, _: _append(state, list(_take(state, 1))),
    "APPENDS": lambda state, _: _append(state, _since_mark(state)),
    "SETITEM": lambda state, _: _set(state, list(_take(state, 2))),
    "SETITEMS": lambda state, _: _set(state, _since_mark(state)),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _memoize),
    **dict.fromkeys(
        ("BINGET", "LONG_BINGET"), lambda state, place: _push(state, state.memo[place])
    ),
    # pickletools puts a blank between module and name.
    "GLOBAL": lambda state, argument: _name(state, argument.replace(" ", ".", 1)),
    "STACK_GLOBAL": _stack_global,
    "BINPERSID": lambda state, _: _push(state, state.storage(state.stack.pop())),
    "REDUCE": _reduce,
    "BUILD": _build,
}
