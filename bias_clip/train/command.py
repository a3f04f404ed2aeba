"""One run from its command line: hosts, config, training, and how the command ends."""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import logging

from bias_clip.core.launching import RUN_AGAIN
from bias_clip.core.storage import NotSavedError, run_folder
from bias_clip.train.config import validate
from bias_clip.train.config_io import load_config, split_spec
from bias_clip.train.display.terminal import device_note, say
from bias_clip.train.hosts.allocator import keep_pages
from bias_clip.train.hosts.compiled import keep_compiled
from bias_clip.train.hosts.distributed import join
from bias_clip.train.hosts.log import log
from bias_clip.train.loop import Interrupted, train
from bias_clip.train.options.command_line import Arguments
from bias_clip.train.options.overrides import apply_overrides


def run(arguments: Arguments, words: Sequence[str]) -> None:
    """Trains. An error that this package raises ends the run with one line that says what to do.

    Args:
      arguments: from `parse`.
      words: the command line as it was typed, for the report.
    """
    logging.set_verbosity(logging.WARNING)
    command = shlex.join(["python", "-m", "bias_clip.train", *words])
    try:
        workdir = run_folder(arguments.workdir)
        path, given = split_spec(arguments.config)
        config = load_config(path, *given)
        apply_overrides(config, arguments.overrides)
        join(**arguments.hosts)  # first: jax cannot join hosts after anything has used a device
        backend = _backend()
        if note := device_note(backend, os.environ):
            say(note)
        if backend == "cpu":
            keep_pages()
        keep_compiled(workdir, backend, jax.device_count())
        validate(config)
        train(config, workdir, command=command, recheck_every=arguments.recheck_every)
    except (
        ValueError,
        FloatingPointError,
        TimeoutError,
        ChildProcessError,
        NotSavedError,
    ) as error:
        if not _is_ours(error):
            raise
        sys.exit(f"error: {error}")
    except Interrupted as stopped:
        log(f"{stopped} Run the same line again to continue.")
        sys.exit(RUN_AGAIN)


def _backend() -> str:
    try:
        return jax.default_backend()
    except RuntimeError as error:  # from jax, when JAX_PLATFORMS names an absent platform
        asked, reason = os.environ.get("JAX_PLATFORMS", ""), str(error).splitlines()[0]
        raise ValueError(
            f"JAX_PLATFORMS={asked} asks for a device that jax cannot use: {reason} Unset it to run "
            "on the devices of this machine."
        ) from error


def _is_ours(error: BaseException) -> bool:
    """Whether this package or a config's get_config raised the error."""
    frames = traceback.extract_tb(error.__traceback__)
    raised_in, package = frames[-1].filename, Path(__file__).resolve().parent.parent
    configs = {frame.filename for frame in frames if frame.name == "get_config"}
    return raised_in in configs or package in Path(raised_in).resolve().parents
