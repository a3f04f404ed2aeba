"""What a person at the terminal reads: what the run waits for and how long, its progress, the results."""

import contextlib
import glob
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from tqdm import tqdm

from bias_clip.core.formatting import format_duration
from bias_clip.train.hosts.distributed import is_main
from bias_clip.train.hosts.log import log

QUIET_SECONDS = 30.0  # between progress lines where the output is not a terminal
_CUDA = ("jax_cuda12_plugin", "jax_cuda13_plugin")
_DEVICE_FILES = {"NVIDIA GPU": "/dev/nvidia[0-9]*", "TPU": "/dev/accel[0-9]*"}


def say(text: str) -> None:
    """Prints a line to stderr; of many processes, one does."""
    if is_main():
        log(text)


@contextlib.contextmanager
def waiting(what: str, say: Callable[[str], None] = say) -> Iterator[list[str]]:
    """Says what the run waits for, and at the end how long it took.

    Args:
      what: such as "compiling the step".
      say: prints a line.

    Yields:
      A list; what is put in it is said with the time.
    """
    say(f"{what} ...")
    found: list[str] = []
    start = time.perf_counter()
    yield found
    say(f"{', '.join([what, *found])}: {format_seconds(time.perf_counter() - start)}")


def format_seconds(seconds: float) -> str:
    """Returns "0.3 s", and from ten seconds on what `format_duration` says."""
    return f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)


def device_note(
    backend: str,
    environ: Mapping[str, str],
    *,
    find_files: Callable[[str], Sequence[str]] = glob.glob,
    find_package: Callable[[str], object] = importlib.util.find_spec,
) -> str | None:
    """Returns the line to say when a run on the CPU looks like an accident, or None.

    Args:
      backend: that jax uses.
      environ: of the process. JAX_PLATFORMS=cpu asks for the CPU: nothing is to be said.
      find_files: the files of a pattern.
      find_package: None if a package is not installed.
    """
    asked = environ.get("JAX_PLATFORMS", "")
    if backend != "cpu" or asked == "cpu":
        return None
    there = [device for device, files in _DEVICE_FILES.items() if find_files(files)]
    installed = [package for package in _CUDA if find_package(package)]
    if any(name in asked for name in ("cuda", "gpu", "tpu")):
        return f"JAX_PLATFORMS={asked} asks for an accelerator, but jax finds none: running on the CPU."
    if installed and "NVIDIA GPU" not in there:
        return f"{installed[0]} is installed, but there is no GPU here: running on the CPU."
    if there:
        extra = "cuda" if there[0] == "NVIDIA GPU" else "tpu"
        advice = (
            "check nvidia-smi and the driver" if installed else f"pip install 'bias_clip[{extra}]'"
        )
        return f"this machine has a {there[0]} that jax does not use: running on the CPU; {advice}."
    return None


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows of texts in columns as wide as their longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{text:<{n}}" for text, n in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


class Progress:
    """A live line on a terminal; elsewhere a line every half minute. One process speaks for all."""

    def __init__(self, *, total_steps: int, start_step: int):
        """Shows nothing until the first `update`."""
        self._speaks = is_main()
        self._quiet = not (self._speaks and sys.stderr is not None and sys.stderr.isatty())
        self._last = 0.0
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=self._quiet,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def update(self, step: int, text: str) -> None:
        """Moves to `step`; `text` says how the run is doing."""
        with contextlib.suppress(OSError):  # of a terminal that has gone, see `log`
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n if not self._quiet else 0)
        now = time.monotonic()
        if (
            self._speaks
            and self._quiet
            and (now - self._last > QUIET_SECONDS or step == self._bar.total)
        ):
            self._last = now
            log(f"step {step}/{self._bar.total}  {text}")

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if self._quiet:
            say(text)
            return
        with contextlib.suppress(OSError):
            self._bar.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Leaves the line as it stands."""
        with contextlib.suppress(OSError):
            self._bar.close()
