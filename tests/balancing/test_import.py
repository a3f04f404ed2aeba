"""The balancer is for people without our trainer: what importing it costs, what it promises."""

import doctest
import importlib
import subprocess
import sys

import pytest

from bias_clip import balancing

FUNCTIONS = [
    name
    for name in balancing.__all__
    if callable(getattr(balancing, name)) and not isinstance(getattr(balancing, name), type)
]


def test_importing_the_balancer_loads_jax_scipy_and_jaxtyping_only():
    """And of ours the balancer and `core.hashing`."""
    listing = "import sys; print(*sys.modules)"

    def modules(line):
        run = subprocess.run([sys.executable, "-c", f"{line}; {listing}"], capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        return set(run.stdout.decode().split())

    base = "import jax, jax.numpy, numpy, jaxtyping, scipy.linalg, scipy.optimize, scipy.sparse"
    added = modules("import bias_clip.balancing") - modules(base)
    assert {name for name in added if not name.startswith("bias_clip.balancing")} == {
        "bias_clip",
        "bias_clip.core",
        "bias_clip.core.hashing",
    }


def test_the_docstring_examples_run(unchecked):
    finder, ran = doctest.DocTestFinder(recurse=False), 0
    for name in FUNCTIONS:
        function = getattr(balancing, name)
        module = importlib.import_module(function.__module__)
        for test in finder.find(function, name, module=module, globs={}):
            if test.examples:
                assert doctest.DocTestRunner().run(test).failed == 0
                ran += 1
    assert ran >= 9


@pytest.mark.parametrize("name", balancing.__all__)
def test_everything_public_is_documented(name):
    assert getattr(balancing, name).__doc__
