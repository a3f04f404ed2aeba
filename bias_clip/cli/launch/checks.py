"""What is wrong with a launch, found before anything is asked for or paid."""

import argparse
import re
import subprocess
from pathlib import Path

from bias_clip.cli.launch.job import Job

_NAME = r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?"  # what all four places take
_WORD = r"[A-Za-z0-9/][A-Za-z0-9_.:/@,+=-]*"  # zones, images, partitions, addresses, times
_FREE = ("where", "name", "config", "workdir", "setup")  # quoted, or a shell line of the user's own
_LEFT_OPEN = ("data.source.path", "data.text.tokenizer")  # keys that a config may have as ""
_MAY_BE_ZERO = ("restarts", "grace")


def check_launch(job: Job, args: argparse.Namespace, *, ships: str) -> None:
    """Checks all that can be known here.

    Args:
      job: the run.
      args: of the place.
      ships: what the hosts get: "commit" (this one), "folder" (this one), or "nothing": an image
        that was made before.

    Raises:
      ValueError: a name or number that no place takes; a config that the hosts would not have; an
        override that the config does not know.
    """
    _check_job(job)
    for key, value in vars(args).items():
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, str) and key not in _FREE and not re.fullmatch(_WORD, value):
            raise ValueError(f"got {flag}={value!r}; expected letters, digits and any of _.:/@,+=-")
        least = 0 if key in _MAY_BE_ZERO else 1
        if type(value) is int and value < least:  # not of flags without a value, which are bool
            raise ValueError(f"got {flag}={value}; expected at least {least}.")
    # A config may end in ":argument".
    path = Path(job.config.partition(":")[0])
    if ships == "commit":
        _check_committed(path)
    elif ships == "folder" and not path.is_file():
        raise ValueError(f"there is no config file {path} here; the hosts look for it there, too.")
    # With an image the config may exist on the hosts alone.
    if path.is_file():
        _check_config(job)


def _check_job(job: Job) -> None:
    from bias_clip.core.storage import check_address

    check_address(job.workdir)
    if not re.fullmatch(_NAME, job.name):
        raise ValueError(
            f"got the name {job.name!r}; expected at most 40 of a-z, 0-9 and -, from a letter on."
        )
    if any("\0" in word for word in (job.config, job.workdir, *job.flags)):
        raise ValueError("got a NUL character in a flag, which no process can be given.")


def _check_committed(path: Path) -> None:
    """`git archive HEAD` is what the hosts get, so what is not committed is not there."""
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"got --config={path}; expected a path inside this repository.")
    # `git archive` packs the current folder: below the top, a part of the repository.
    if _git("rev-parse", "--show-prefix"):
        raise ValueError("the commit is packed from here: launch from the top of the repository.")
    if _git("ls-tree", "HEAD", "--", str(path)) == "":
        raise ValueError(f"{path} is not in the commit that the hosts get; commit it first.")
    if _git("status", "--porcelain", "--untracked-files=no") != "":
        raise ValueError(
            "there are changes that are not in the commit that the hosts get; commit them first."
        )


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def _check_config(job: Job) -> None:
    """The overrides are known, and say what the config leaves to them.

    Loads the config as the trainer will, which takes JAX: only here, where a launch is near.
    """
    from bias_clip.train.config_io import load_config
    from bias_clip.train.options.overrides import apply_overrides

    path, _, argument = job.config.partition(":")
    config = load_config(Path(path), *filter(None, [argument]))
    words = [flag.removeprefix("--config.") for flag in job.flags if flag.startswith("--config.")]
    apply_overrides(config, words)
    for key in _LEFT_OPEN:
        _, section, name = key.split(".")
        if config.data[section].to_dict().get(name) == "":
            raise ValueError(f"{path} leaves {key} open; add, after --, --config.{key}=...")
