"""`python -m bias_clip.train --config=configs/emoji.py --workdir=runs/emoji`."""

import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from bias_clip.core.storage import NotSavedError, absolute, run_folder
from bias_clip.train.config import load_config, validate
from bias_clip.train.hosts.allocator import keep_pages
from bias_clip.train.hosts.distributed import define_flags, initialize_from_flags
from bias_clip.train.loop import Interrupted, train

RUN_AGAIN = 75  # exit status after a signal: everything is saved, start the same line again

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/; --config.key=value.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the report go.")
define_flags()


def main(_argv: list[str]) -> None:
    """Flags, validation, training. Our own errors say what to do and come without a stack."""
    logging.set_verbosity(logging.WARNING)
    command = shlex.join(["python", "-m", "bias_clip.train", *sys.argv[1:]])
    schema = Path(config_flags.get_config_filename(flags.FLAGS["config"])).parent / "default.py"
    try:
        workdir = run_folder(str(_WORKDIR.value))
        initialize_from_flags()
        if jax.default_backend() == "cpu":
            keep_pages()
        else:
            _keep_compiled(workdir)
        validate(_CONFIG.value, load_config(schema))
        train(_CONFIG.value, workdir, command=command)
    except (ValueError, FloatingPointError, TimeoutError, NotSavedError) as error:
        if not _is_ours(error):
            raise
        sys.exit(f"error: {error}")
    except Interrupted as stopped:
        print(f"{stopped} Run the same line again to continue.", file=sys.stderr)
        sys.exit(RUN_AGAIN)


def _keep_compiled(workdir: Path) -> None:
    """What is compiled stays in the workdir, unless JAX_COMPILATION_CACHE_DIR names a place.

    A run that is started again then need not compile. Not on CPUs, where code that was compiled on
    one machine may not run on the next that has the workdir.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(absolute(workdir) / "compiled"))


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """As absl does it, but a wrong override or config file is a message and not a stack."""
    try:
        rest = app.parse_flags_with_usage(list(argv))
        dict(_CONFIG.value or {})  # a file that cannot be loaded raises when it is used
    except AttributeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).name == "config_path.py" for frame in frames):
            raise  # not of ml_collections' look-up of an override: the config file is broken
        sys.exit(
            f"error: an override of --config names a key that the config does not have: {error}. "
            "Only keys that the config file sets can be overridden; to add an argument, write it there."
        )
    except OSError as error:
        sys.exit(f"error: {error}")
    return rest


def _is_ours(error: BaseException) -> bool:
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return Path(__file__).resolve().parent.parent in raised_in.parents


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_parse_flags)
