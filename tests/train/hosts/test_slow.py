"""A host that is slower than the others is named, and noise is not."""

import numpy as np

from bias_clip.train.hosts.slow import describe, slow_hosts

NAMES = [f"process {i} (worker-{i})" for i in range(8)]


def test_the_slow_host_is_named_with_its_part_and_the_median():
    times = {"step": np.full(8, 10.0), "input": np.full(8, 1.0)}
    times["input"][3] = 4.0
    (slow,) = slow_hosts(times, NAMES)
    assert slow == (NAMES[3], "input", 4.0, 1.0)
    assert describe([slow]) == (
        "slow host: process 3 (worker-3) took 4.00 s for 'input', the median host 1.00 s"
    )


def test_one_of_three_hosts_is_found_though_it_widens_the_standard_deviation():
    assert [s.host for s in slow_hosts({"step": np.array([1.0, 9.0, 1.1])}, NAMES)] == [NAMES[1]]


def test_noise_and_equal_hosts_have_no_name():
    rng = np.random.default_rng(0)
    assert slow_hosts({"step": 10 + 0.1 * rng.standard_normal(8)}, NAMES) == []
    assert slow_hosts({"step": np.zeros(8), "input": np.full(8, 2.0)}, NAMES) == []
