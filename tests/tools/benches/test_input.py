"""The benchmark of the input measures every contestant on what it says."""

import argparse

import numpy as np

from tools.benches import input


def arguments(*words):
    parser = argparse.ArgumentParser()
    input.add_arguments(parser)
    return parser.parse_args(["--size=32", "--batch=32", "--rounds=1", *words])


def test_each_number_of_threads_and_processes_has_its_speed(capsys):
    speeds = input.bench(arguments("--alone", "--threads", "1"))
    assert set(speeds) == {"ours, 1 threads", "ours, 1 processes"}
    assert all(speed > 0 for speed in speeds.values())
    assert "512 JPEGs of " in capsys.readouterr().out


def test_ours_makes_images_of_the_size_as_bytes():
    contestant = input._ours(input.Photos(), arguments(), 1, 0)
    batch = next(contestant.batches)
    contestant.close()
    assert batch["image"].shape == (32, 32, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["image"].std() > 20  # photographs, not blanks
