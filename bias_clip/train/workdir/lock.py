"""One run per workdir: whoever writes there holds a lock, on a disk, on shared storage or in a bucket."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from bias_clip.core.storage import NotSavedError, in_bucket, storage_errors
from bias_clip.train.hosts.log import log

LOCK = "lock"
BEAT = 10.0  # seconds between two signs of life
PATIENCE = 60.0  # seconds without a sign after which an owner counts as gone
_POLL = 1.0


class Owner(NamedTuple):
    """Who holds a lock, as the file says, and its last sign of life."""

    token: str
    host: str
    pid: int
    life: str  # of the process: tells it from a later one with the same number
    beat: float  # seconds since the epoch: on a disk of the file, in a bucket as it says


class Lock:
    """A held lock; ask `check` before writing."""

    def __init__(self, path: Path, token: str):
        """Gives signs of life until `close`."""
        self._path, self._token = path, token
        self._taken_by: Owner | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._live, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises NotSavedError if another run has taken the workdir over; waits for nothing."""
        if self._taken_by is not None:
            raise NotSavedError(
                f"the workdir {self._path.parent} now belongs to {_described(self._taken_by)}: this "
                f"process gave no sign of life for {PATIENCE:.0f} s. What it saved before is whole."
            )

    def close(self) -> None:
        """Lets the workdir go."""
        self._end.set()
        self._thread.join()
        with contextlib.suppress(*storage_errors(self._path, ValueError)):
            if self._taken_by is None and _read(self._path).token == self._token:
                self._path.unlink()

    def _live(self) -> None:
        while not self._end.wait(BEAT):
            try:
                owner = _read(self._path)
                if owner.token != self._token:
                    self._taken_by = owner
                    return
                _touch(self._path)
            except storage_errors(self._path, ValueError) as error:
                # What cannot be read now may be at the next sign; the saves say when a disk is gone.
                log(f"{self._path} cannot be used: {error}")


def take(workdir: Path, *, patience: float = PATIENCE) -> Lock:
    """Takes the lock of a workdir; close it. Call it on one process of the run.

    The file `lock` is made exclusively, so of two starts one succeeds. An owner on this machine whose
    process has ended is replaced at once, and one elsewhere after `patience` seconds without a sign of
    life, which are watched here: no clock is compared with another. Both are said.

    Args:
      workdir: exists; a folder, or an address in a bucket.
      patience: seconds to watch an owner that cannot be asked.

    Raises:
      ValueError: another run is at work there; names its host, process and last sign of life.
      OSError: the lock cannot be written; of a bucket, other errors too.
    """
    path, token = workdir / LOCK, secrets.token_hex(8)
    while not _create(path, token):
        try:
            owner = _read(path)
        except FileNotFoundError:
            continue  # let go in between
        if not _is_gone(owner, path, patience):
            continue
        # Said before it is done: a signal may end this process between the two.
        log(f"{path} was left by {_described(owner)}: taking it over.")
        if _replace(path, owner, token, patience):
            break
    return Lock(path, token)


def _is_gone(owner: Owner, path: Path, patience: float) -> bool:
    """True: the owner has ended; False: the lock has changed hands. Raises ValueError if it lives."""
    if (ended := _has_ended(owner)) is not None:
        if ended:
            return True
        raise ValueError(_refusal(owner, path))
    end = time.monotonic() + patience
    log(
        f"{path} is held by {_described(owner)}: waiting up to {patience:.0f} s for a sign of life."
    )
    while time.monotonic() < end:
        time.sleep(min(_POLL, patience / 10))
        try:
            now = _read(path)
        except FileNotFoundError:
            return False
        if now.token != owner.token:
            return False
        if now.beat != owner.beat:
            raise ValueError(_refusal(now, path))
    return True


def _refusal(owner: Owner, path: Path) -> str:
    return (
        f"another run is at work in {path.parent}: {_described(owner)}. End it first, or give another "
        f"--workdir. If no such process exists, delete {path}."
    )


def _described(owner: Owner) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(owner.beat))
    return f"process {owner.pid} on {owner.host}, last sign of life {when} UTC"


def _has_ended(owner: Owner) -> bool | None:
    """Whether the process has; None where that cannot be known from here."""
    machine, _, started = owner.life.rpartition(" ")
    mine = _life(os.getpid()).rpartition(" ")[0]
    if not machine or machine != mine:
        return None
    return _life(owner.pid).rpartition(" ")[2] != started


def _life(pid: int) -> str:
    """The boot of the machine, its space of process numbers, and when the process started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""  # not Linux: its signs of life are watched
    try:
        # The name of the command, in brackets, may hold anything; the start is 20 fields after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return f"{boot} {space} ended"
    return f"{boot} {space} {'ended' if fields[0] in 'ZX' else fields[19]}"


def _content(token: str) -> str:
    pid = os.getpid()
    return json.dumps(
        {
            "token": token,
            "host": socket.gethostname(),
            "pid": pid,
            "life": _life(pid),
            "beat": time.time(),
        }
    )


def _create(path: Path, token: str) -> bool:
    """Makes the file, if it is not there."""
    if in_bucket(path):
        return _create_object(path, _content(token))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_content(token))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


def _replace(path: Path, owner: Owner, token: str, patience: float) -> bool:
    """Puts our lock in the place of one whose owner has gone; of several that try, one succeeds.

    Whoever makes the claim on this very lock may. It then looks again: a slow one may find that the
    lock has a new owner by now.
    """
    claim = path.with_name(f"{LOCK}.{owner.token}")
    if not _create(claim, token):
        if _is_gone(_read_or(claim, owner), claim, patience):
            claim.unlink(missing_ok=True)  # of one that ended in the midst of this
        return False
    try:
        if _read_or(path, owner).token != owner.token:
            return False
        if in_bucket(path):
            path.write_text(_content(token))
        else:
            _create(path.with_name(f"{LOCK}.{token}.new"), token)
            path.with_name(f"{LOCK}.{token}.new").replace(path)
    finally:
        claim.unlink(missing_ok=True)
    return True


def _read_or(path: Path, other: Owner) -> Owner:
    try:
        return _read(path)
    except FileNotFoundError:
        return other


def _read(path: Path) -> Owner:
    """Who holds the lock; a file that is empty or cut has an owner without a name."""
    text = path.read_bytes().decode(errors="replace")
    changed = 0.0 if in_bucket(path) else path.stat().st_mtime
    try:
        said: Any = json.loads(text)
    except ValueError:
        said = None
    fields = {"token": str, "host": str, "pid": int, "life": str, "beat": float}
    if not isinstance(said, dict) or any(type(said.get(k)) is not t for k, t in fields.items()):
        return Owner("damaged", "an unknown host", 0, "", changed)
    owner = Owner(**{name: said[name] for name in fields})
    return owner if in_bucket(path) else owner._replace(beat=changed)


def _touch(path: Path) -> None:
    """A sign of life. On a disk it takes no room, so a full one does not make the owner look gone."""
    if in_bucket(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"beat": time.time()}))
    else:
        os.utime(path)


def _create_object(path: Path, text: str) -> bool:
    """In a bucket: a write that succeeds only where there is no such object."""
    import gcsfs

    files = gcsfs.GCSFileSystem()
    try:
        files.pipe_file(str(path), text.encode(), mode="create")
    except FileExistsError:
        return False
    return True
