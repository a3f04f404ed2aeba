"""What is installed: constraints for each Python, and Dockerfiles made of what is here."""

import re
import shlex
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SETUP = (ROOT / "setup.py").read_text()
PYTHONS = ("3.11", "3.12", "3.13")


def pins(python):
    """Name to version, as pip reads constraints.txt on a Python."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                assert pin.name.lower() not in found, f"{pin.name} twice on {python}"
                found[pin.name.lower().replace("_", "-")] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_bound_of_setup_allows_what_is_pinned(python):
    pinned = pins(python)
    for text in re.findall(r'"([A-Za-z][\w.-]*(?:\[\w+\])?>=[\d.]+)"', SETUP):
        wanted = Requirement(text)
        name = wanted.name.lower().replace("_", "-")
        if name in ("apache-beam", "resvg-py"):  # in environments of their own
            continue
        assert name in pinned, name
        assert wanted.specifier.contains(Version(pinned[name])), (text, pinned[name])


@pytest.mark.parametrize("python", PYTHONS)
def test_jax_and_jaxlib_go_together(python):
    pinned = pins(python)
    assert pinned["jax"] == pinned["jaxlib"]


def lines(path):
    text = path.read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_a_dockerfile_copies_and_installs_what_is_here(name):
    path = ROOT / "docker" / f"{name}.Dockerfile"
    copied = set()
    for line in lines(path):
        word, *words = shlex.split(line)
        if word == "COPY":
            for source in words[:-1]:
                assert (ROOT / source).exists(), source
                copied.add(source)
        if line.startswith("RUN pip"):
            (extras,) = re.findall(r"\.\[([\w,]+)\]", line)
            for extra in extras.split(","):
                assert f'"{extra}": ' in SETUP, extra
            assert line.endswith("-c constraints.txt")
    needed = {"bias_clip", "configs", "setup.py", "README.md", "LICENSE", "NOTICE"}
    assert copied >= needed | {"constraints.txt", "pyproject.toml"}
    (base,) = [line for line in lines(path) if line.startswith("FROM ")]
    assert base.removeprefix("FROM python:").removesuffix("-slim") in PYTHONS
    assert 'ENTRYPOINT ["bias-clip"]' in lines(path)


def test_the_pages_of_pods_name_the_dockerfiles():
    text = (ROOT / "docs" / "pods.md").read_text()
    assert "docker/gpu.Dockerfile" in text
    assert "docker/tpu.Dockerfile" in text
