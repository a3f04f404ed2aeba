"""Eight simulated devices, quick compiles, shape checking on, and the flags that grain's workers need."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Programs of tests run for milliseconds and compile for seconds: without LLVM's costly passes those of whole
# steps take half the time. `JAX_DISABLE_MOST_OPTIMIZATIONS=0` compiles as users do; so do the end-to-end runs.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from jaxtyping import install_import_hook

install_import_hook(
    ["bias_clip.losses", "bias_clip.balancing", "bias_clip.models", "bias_clip.stages"],
    "beartype.beartype",
)

from absl import flags

flags.FLAGS(["pytest"])

import gc
import json
from pathlib import Path

import jax
import jaxtyping
import pytest

# A process may have 65,530 memory mappings (Linux's default), and a worker of the whole suite had 25,000, since each
# compiled program keeps some: beyond the limit XLA dies without a message.
_MANY_MAPPINGS = 20_000


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Forgets the compiled programs of earlier modules when they have become many."""
    yield
    if _num_mappings() > _MANY_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def _num_mappings():
    maps = Path("/proc/self/maps")
    return len(maps.read_bytes().splitlines()) if maps.exists() else 0


@pytest.fixture
def golden_json():
    """Compares a value with tests/golden/<name>.json; `REGOLD=1 pytest` writes the file again."""

    def check(name, value):
        path = Path(__file__).parent / "golden" / f"{name}.json"
        if os.environ.get("REGOLD") == "1":
            path.write_text(json.dumps(value, indent=1) + "\n")
        assert json.loads(path.read_text()) == json.loads(json.dumps(value)), (
            f"{name} differs from {path}; if that is meant, run with REGOLD=1 and say why."
        )

    return check


@pytest.fixture
def x64():
    """Double precision for one test, so that equal means equal to twelve digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """Shape checking off, as it is for users, so that our own messages are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Files whose tests take minutes. They run first: at the end one worker would wait for the other.
_LONGEST = (
    "train/test_kills.py",
    "train/workdir/test_bucket.py",
    "train/test_end_to_end.py",
    "train/hosts/test_distributed.py",
    "tools/test_multistage_run.py",
    "cli/test_docs_commands.py",
    "cli/test_wheel.py",
)


def pytest_collection_modifyitems(items):
    """Moves slow tests of the longest files to the front."""

    def is_long(item):
        return item.get_closest_marker("slow") and str(item.path).endswith(_LONGEST)

    items.sort(key=lambda item: not is_long(item))
