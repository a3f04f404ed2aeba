"""Parses HLO text, as compilers print it, into computations and instructions."""

import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)


class Shape(NamedTuple):
    """One array; S(n) in its layout is its memory space, and without it the main memory."""

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        """Size without padding."""
        if self.dtype in _BITS:
            bits = _BITS[self.dtype]
        else:
            bits = int(re.findall(r"\d+", self.dtype)[0])  # f8e4m3fn, bf16, s32, ...
        return math.ceil(bits * math.prod(self.dims) / 8)


class Instruction(NamedTuple):
    """`name = shapes opcode(operands), rest`."""

    name: str
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    called: tuple[str, ...]  # computations
    inside: str  # what stands between the parentheses
    rest: str

    def attribute(self, name: str, default: str | None = None) -> str:
        """Returns the text of `name=...`.

        Raises:
          ValueError: it is missing and there is no default.
        """
        found = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest)
        if found is None and default is None:
            raise ValueError(f"the instruction {self.name!r} ({self.opcode}) has no {name!r}.")
        return str(default) if found is None else found[1].lstrip("%")

    @property
    def rest_of_constant(self) -> str:
        """A constant's value, as text."""
        return self.inside.strip()

    @property
    def parameter_number(self) -> int | None:
        """Which parameter of its computation this is, if it is one."""
        return int(self.inside) if self.opcode == "parameter" else None


Computation = dict[str, Instruction]


class Program(NamedTuple):
    """All computations by name."""

    entry: str
    computations: dict[str, Computation]


def read_hlo(text: str) -> Program:
    """Parses the text of one module.

    Raises:
      ValueError: the text has no entry computation, or a line is not HLO.
    """
    entry: str | None = None
    current: Computation | None = None
    computations: dict[str, Computation] = {}
    # A header starts a computation, "}" ends it; all other lines inside are one instruction each.
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := _LINE.match(line)):
            current[found[2]] = _read_instruction(found[2], found[3])
    if entry is None:
        raise ValueError(f"got {text[:60]!r}...; expected HLO text with an ENTRY computation.")
    return Program(entry, computations)


def _read_instruction(name: str, text: str) -> Instruction:
    # A tuple's type has spaces and brackets of its own; other types end at the first space.
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode, start = re.match(r"\s*([\w\-]+)", text[end:]), text.index("(", end)
    if opcode is None:
        raise ValueError(f"cannot read the instruction {name!r}: {text[:80]!r}.")
    stop = _closing(text, start)
    inside, rest = text[start + 1 : stop], text[stop + 1 :]
    # Metadata is free text (operations, files), in which the patterns below must find nothing.
    rest = re.sub(r"metadata=\{[^}]*\}", "", rest)
    called = tuple(
        part.strip().lstrip("%")
        for group in _CALLED.findall(rest)
        for part in group.strip("{}").split(",")
    )
    return Instruction(
        name=name,
        shapes=tuple(_read_shape(*found) for found in _ARRAY.findall(text[:end])),
        opcode=opcode[1],
        # In the parentheses only: attributes name computations with % too.
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        called=called,
        inside=inside,
        rest=rest,
    )


def _read_shape(dtype: str, dims: str, layout: str) -> Shape:
    sizes = tuple(int(size) for size in dims.split(",")) if dims else ()
    return Shape(dtype, sizes, not re.search(r"S\([1-9]", layout))


def _closing(text: str, start: int) -> int:
    """The position of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"a parenthesis does not close in {text[start : start + 80]!r}.")
