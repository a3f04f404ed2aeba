"""The extras that messages name are those of setup.py, for all that they install and we import."""

import ast
import re
import sys
from pathlib import Path

from bias_clip.core.extras import extra_of

ROOT = Path(__file__).parents[2]
BASE = {"jax", "jaxlib", "numpy", "scipy", "jaxtyping"}
OF_JAX = {"libtpu", "ml_dtypes", "opt_einsum"}


def imported(folder):
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.partition(".")[0]


def test_every_package_that_is_imported_has_an_extra():
    optional = {"ray"}  # the launcher's, inside of the cluster
    ours = {"bias_clip", "configs"}
    for name in set(imported(ROOT / "bias_clip")) - sys.stdlib_module_names - BASE - OF_JAX - ours:
        assert extra_of(name) is not None or name in optional, name


def test_every_extra_that_is_named_exists():
    text = (ROOT / "setup.py").read_text()
    named = set()
    for path in [*(ROOT / "bias_clip").rglob("*.py")]:
        named |= set(re.findall(r"bias_clip\[([a-z]+)\]", path.read_text()))
    for extra in named | {extra_of(name) for name in ("PIL", "gcsfs", "libtpu", "sklearn")}:
        assert f'"{extra}": ' in text, extra
