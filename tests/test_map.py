"""docs/architecture.md is the map of the tree as it is."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
ROOM = 18  # modules of a folder beyond which nobody finds anything


def paths():
    found = re.findall(r"`((?:bias_clip|tests|tools|configs|docs)/[\w./]*)`", PAGE)
    return sorted({path for path in found if "<" not in path})


@pytest.mark.parametrize("path", paths())
def test_a_path_of_the_map_exists(path):
    assert (ROOT / path).exists()


def test_the_map_names_every_package():
    packages = {p.parent.name for p in (ROOT / "bias_clip").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^\* `bias_clip/(\w+)`:", PAGE, re.MULTILINE))


@pytest.mark.parametrize(
    ("path", "lines"), re.findall(r"^\| `(\S+\.py)` \| (\d+) \|", PAGE, re.MULTILINE)
)
def test_the_lengths_of_the_reading_order_are_about_right(path, lines):
    assert len((ROOT / path).read_text().splitlines()) == pytest.approx(int(lines), rel=0.3)


def test_folders_stay_small_enough_to_find_something():
    sizes = {}
    for path in (ROOT / "bias_clip").rglob("*.py"):
        if path.name != "__init__.py":
            folder = path.parent.relative_to(ROOT).as_posix()
            sizes[folder] = sizes.get(folder, 0) + 1
    crowded = {f: n for f, n in sizes.items() if n > ROOM}
    assert not crowded, "move what belongs together to a folder of its own"
