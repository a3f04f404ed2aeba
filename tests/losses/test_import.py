"""The losses are for people without our trainer: what importing them costs, what they promise."""

import doctest
import importlib
import subprocess
import sys

import pytest

from bias_clip import losses


def test_importing_the_losses_loads_jax_numpy_and_jaxtyping_only():
    """Compared with a process that imports just those: nothing else of ours or of others."""
    listing = "import sys; print(*sys.modules)"

    def modules(line):
        run = subprocess.run([sys.executable, "-c", f"{line}; {listing}"], capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        return set(run.stdout.decode().split())

    base = modules("import jax, jax.numpy, numpy, jaxtyping, doctest")
    added = modules("import bias_clip.losses") - base
    assert {name for name in added if not name.startswith("bias_clip.losses")} == {"bias_clip"}


@pytest.mark.parametrize("name", losses.__all__)
def test_the_docstring_example_runs(name):
    function = getattr(losses, name)
    module = importlib.import_module(function.__module__)
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = finder.find(function, name, module=module, globs={})
    assert test.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(test).failed == 0
