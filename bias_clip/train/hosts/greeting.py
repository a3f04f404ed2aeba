"""What the processes say to each other when they meet, and how each proves that it is of this run.

    process 0:  {"nonce": N}
    process i:  {"process": i, "total": n, "name": ..., "nonce": M, "mac": HMAC(token, N, M, ...)}
    process 0:  {"kind": ..., "text": ..., "mac": HMAC(token, N, M, ...)}

Each side draws a nonce, so that a message which somebody has overheard is of no use again. The token
itself is never sent. Anything that is not exactly such a message is read as None.
"""

import hashlib
import hmac
import json
import secrets
from typing import Any, NamedTuple

LONGEST_CALL = 4096  # bytes of a line that process 0 reads
LONGEST_ANSWER = 65536
_LONGEST_NAME = 256  # characters
_MOST = 2**31  # processes
_KINDS = ("ok", "missing", "wrong")


class Call(NamedTuple):
    """What a process says of itself."""

    process: int
    total: int
    name: str
    nonce: str


class Answer(NamedTuple):
    """What process 0 says to all: kind is "ok", "missing" or "wrong", and why."""

    kind: str
    text: str


def new_nonce() -> str:
    """A number that was never used before, as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def write_challenge(nonce: str) -> bytes:
    """The first line, of process 0."""
    return _line({"nonce": nonce})


def read_challenge(line: bytes) -> str | None:
    """The nonce of `write_challenge`."""
    said = _parse(line, {"nonce": str})
    return said["nonce"] if said is not None and _is_nonce(said["nonce"]) else None


def sign_call(call: Call, token: str, nonce: str) -> bytes:
    """The line of another process; `nonce` is that of process 0."""
    said = call._replace(name=call.name[:_LONGEST_NAME])._asdict()
    return _line(said | {"mac": _mac(token, "call", nonce, said)})


def read_call(line: bytes, token: str, nonce: str) -> Call | None:
    """The call, if it is one, and of a process that knows the token."""
    fields = {"process": int, "total": int, "name": str, "nonce": str, "mac": str}
    said = _parse(line, fields)
    if said is None or not _is_signed(said, token, "call", nonce):
        return None
    call = Call(**said)
    numbers = 0 <= call.process < _MOST and 0 < call.total < _MOST
    sound = call.name.isprintable() and len(call.name) <= _LONGEST_NAME and _is_nonce(call.nonce)
    return call if numbers and sound else None


def sign_answer(answer: Answer, token: str, nonce: str, theirs: str) -> bytes:
    """The line that ends it; `theirs` is the caller's nonce."""
    said = answer._asdict()
    return _line(said | {"mac": _mac(token, "answer", nonce + theirs, said)})


def read_answer(line: bytes, token: str, nonce: str, mine: str) -> Answer | None:
    """The answer, if it is one, and of a process that knows the token."""
    said = _parse(line, {"kind": str, "text": str, "mac": str})
    if said is None or not _is_signed(said, token, "answer", nonce + mine):
        return None
    return Answer(**said) if said["kind"] in _KINDS else None


def _is_signed(said: dict[str, Any], token: str, what: str, nonces: str) -> bool:
    """Takes the "mac" out of what was said, and compares; lone surrogates have no bytes."""
    mac = said.pop("mac")
    return mac.isascii() and hmac.compare_digest(mac, _mac(token, what, nonces, said))


def _mac(token: str, what: str, nonces: str, said: dict[str, Any]) -> str:
    text = json.dumps([what, nonces, said], sort_keys=True)
    return hmac.new(token.encode(), text.encode(), hashlib.sha256).hexdigest()


def _line(said: dict[str, Any]) -> bytes:
    return json.dumps(said).encode() + b"\n"


def _parse(line: bytes, fields: dict[str, type]) -> dict[str, Any] | None:
    """The object of a line that has just these fields, of just these types: True is not a number."""
    try:
        said = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or set(said) != set(fields):
        return None
    return said if all(type(said[name]) is kind for name, kind in fields.items()) else None


def _is_nonce(text: str) -> bool:
    return len(text) == 32 and all(digit in "0123456789abcdef" for digit in text)
