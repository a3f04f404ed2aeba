"""What a run says of itself."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from bias_clip.core.formatting import format_duration
from bias_clip.models.two_towers import Outputs
from bias_clip.train.metrics import Clock, MetricWriter, health


def outputs(zimg, ztxt):
    return Outputs(jnp.asarray(zimg), jnp.asarray(ztxt), jnp.float32(10.0), jnp.float32(-5.0))


def test_perfect_towers_have_accuracy_one_and_the_closed_form_logits():
    got = health(outputs(np.eye(4, dtype="f"), np.eye(4, dtype="f")), {})
    expected = {"acc_img": 1, "acc_txt": 1, "logit_pos": 5, "logit_neg": -5, "scale": 10}
    assert {name: float(got[name]) for name in expected} == expected


def test_shifted_captions_have_accuracy_zero():
    got = health(outputs(np.eye(4, dtype="f"), np.roll(np.eye(4, dtype="f"), 1, 0)), {})
    assert float(got["acc_img"]) == float(got["acc_txt"]) == 0.0
    assert float(got["logit_neg_max"]) == 5.0


def test_equal_captions_are_not_held_against_each_other():
    z = np.eye(4, dtype="f")[[0, 0, 1, 2]]
    assert float(health(outputs(z, z), {})["acc_img"]) == 0.5
    assert float(health(outputs(z, z), {"text_id": jnp.array([7, 7, 1, 2])})["acc_img"]) == 1.0


def test_image_and_caption_accuracy_are_not_mixed_up():
    # Both images prefer caption 0; each caption prefers its own image.
    zimg, ztxt = np.array([[2.0, 0.0], [1.0, 0.5]], "f"), np.array([[1.0, 0.0], [0.0, 1.0]], "f")
    got = health(outputs(zimg, ztxt), {})
    assert (float(got["acc_img"]), float(got["acc_txt"])) == (0.5, 1.0)


def test_metrics_of_steps_that_run_again_are_cut(tmp_path):
    writer = MetricWriter(tmp_path, start_step=0)
    for step in (1, 2, 3):
        writer.write(step, {"train/loss": jnp.float32(step)})
    writer.close()
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "train/lo')  # killed while writing
    writer = MetricWriter(tmp_path, start_step=2)
    writer.write(3, {"train/loss": 30})
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["train/loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 30)]


def test_tensorboard_says_what_an_evaluators_metric_is(tmp_path):
    writer = MetricWriter(tmp_path, start_step=0, evaluators={"my_style": "zeroshot"})
    for step in (1, 2):
        writer.write(step, {"train/loss": 1.0, "eval/my_style/acc1": 0.5, "eval/other/x": 2.0})
    writer.close()
    [path] = (tmp_path / "tensorboard").iterdir()
    first, second = (
        {value.tag: value.metadata for value in event.summary.value}
        for event in map(Event.FromString, records(path.read_bytes()))
        if event.summary.value
    )
    about = first["eval/my_style/acc1"]
    assert about.display_name == "my style: top-1 accuracy"
    assert about.summary_description == "share, higher is better"
    assert not first["train/loss"].display_name
    assert not first["eval/other/x"].display_name
    assert not second["eval/my_style/acc1"].display_name  # once is enough


def records(data):
    """The payloads of a file of TFRecords: length, its checksum, payload, its checksum."""
    while data:
        size = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + size]
        data = data[16 + size :]


def test_clock_charges_time_to_parts_and_starts_anew():
    clock = Clock()
    assert clock.timed("sum", sum, [1, 2]) == 3
    seconds, parts = clock.report()
    assert 0 < parts["sum"] <= seconds
    assert clock.report()[1] == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(20.4, "20 s"), (200, "3 min 20 s"), (3723, "1 h 02 min")]
)
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text
