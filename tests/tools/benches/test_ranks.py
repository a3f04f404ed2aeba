"""The benches of ranks and of the start: forms that differ are refused, and the clock waits for the first step."""

import argparse
import os
import sys
import time

import numpy as np
import pytest

from bias_clip.evals.ranking import best_ranks
from tools.benches import ranks, start


def arguments(module, *words):
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_both_forms_agree_and_are_timed():
    words = ["--rows", "60", "--classes", "7", "--width", "8", "--rounds", "1"]
    found = ranks.bench(arguments(ranks, *words))
    assert found["retrieval"]["ratio"] > 0
    assert found["zero-shot"]["ours"] > 0


def test_plain_ranks_are_those_of_the_library():
    own = np.arange(40) % 9
    z, c = ranks.make_pairs(own, 9, 6, np.random.default_rng(1))
    got = ranks.plain_ranks(z, c, own)
    np.testing.assert_array_equal(got, best_ranks(z, c, np.arange(40), own))
    assert 0 < np.mean(got == 0) < 1


def test_forms_that_differ_are_refused():
    steps = {"ours": lambda: np.array([0, 1]), "float64": lambda: np.array([0, 2])}
    with pytest.raises(ValueError, match="our ranks differ"):
        ranks.compare(steps, 1)


def test_the_clock_stops_at_the_first_line_and_not_at_the_end(tmp_path):
    file = tmp_path / "metrics.jsonl"
    code = f"import time; time.sleep(0.3); open({str(file)!r}, 'w').write('x'); time.sleep(0.6)"
    began = time.perf_counter()
    seconds = start.seconds_to([sys.executable, "-c", code], file, os.environ)
    assert 0.3 <= seconds <= time.perf_counter() - began - 0.4


def test_a_start_without_a_step_is_an_error_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such config')"]
    with pytest.raises(ValueError, match=r"no first step.*no such config"):
        start.seconds_to(command, tmp_path / "metrics.jsonl", os.environ)
