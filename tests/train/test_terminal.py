"""What the terminal says: waits with their times, a run on the CPU by accident, a table."""

import re

import pytest

from bias_clip.train.display.terminal import device_note, format_seconds, format_table, waiting

GPU, TPU = ("/dev/nvidia0",), ("/dev/accel0",)


def note(backend="cpu", environ=None, *, gpu=False, tpu=False, plugin=False):
    def find_files(pattern):
        return GPU if gpu and "nvidia" in pattern else TPU if tpu and "accel" in pattern else ()

    def find_package(name):
        return object() if plugin and name == "jax_cuda12_plugin" else None

    return device_note(backend, environ or {}, find_files=find_files, find_package=find_package)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (dict(environ={"JAX_PLATFORMS": "cuda,cpu"}), "JAX_PLATFORMS=cuda,cpu asks for an accel"),
        (dict(plugin=True), "jax_cuda12_plugin is installed, but there is no GPU here"),
        (dict(gpu=True), r"has a NVIDIA GPU .*pip install 'bias_clip\[cuda\]'"),
        (dict(gpu=True, plugin=True), "has a NVIDIA GPU .*check nvidia-smi"),
        (dict(tpu=True), r"has a TPU .*pip install 'bias_clip\[tpu\]'"),
    ],
)
def test_a_run_on_the_cpu_by_accident_is_one_line(found, message):
    line = note(**found)
    assert re.search(message, line)
    assert "running on the CPU" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "found",
    [
        {},
        dict(gpu=True, plugin=True, environ={"JAX_PLATFORMS": "cpu"}),
        dict(gpu=True, plugin=True, backend="gpu"),
        dict(tpu=True, backend="tpu"),
    ],
)
def test_nothing_is_said_of_a_device_in_use_or_a_cpu_that_was_asked_for(found):
    assert note(**found) is None


def test_a_wait_is_said_before_and_with_its_time_after():
    lines = []
    with waiting("reading the data", lines.append) as found:
        assert lines == ["reading the data ..."]
        found.append("40 examples found")
    assert re.fullmatch(r"reading the data, 40 examples found: \d\.\d s", lines[1])


@pytest.mark.parametrize(("seconds", "text"), [(0.34, "0.3 s"), (10.0, "10 s"), (95, "1 min 35 s")])
def test_seconds_read_well(seconds, text):
    assert format_seconds(seconds) == text


def test_a_table_has_columns_and_no_blanks_at_the_end():
    table = format_table(
        [("style", "top-1", "9.0 %", ""), ("x", "probe", "100.0 %", "chance 50 %")]
    )
    assert table == "style  top-1  9.0 %\nx      probe  100.0 %  chance 50 %"
