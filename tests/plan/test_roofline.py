"""Fits or not, how fast at best, and what helps."""

import pytest

from bias_clip.plan.hlo import Counts
from bias_clip.plan.roofline import (
    CHIPS,
    GIB,
    Memory,
    Times,
    advise,
    advise_refused,
    estimate_times,
    get_chip,
)

V5E, H100 = CHIPS["v5e"], CHIPS["h100"]
SMALL = Memory(parameters=1e9, optimizer=1e9, batch=1e8, loss=1e7, activations=1e9, code=1e7)


def test_unknown_chip_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"no peaks known for 'v9'; known are \['a100'"):
        get_chip("v9")


def test_each_time_is_the_work_over_its_peak():
    sent = {"all-reduce": 2 * V5E.out, "collective-permute": 3 * V5E.link}
    counts = Counts(flops=7 * V5E.flops, hbm_bytes=4 * V5E.hbm, sent=sent)
    times = estimate_times(counts, V5E, num_chips=256)
    assert times == pytest.approx((7, 4, 5))
    assert (times.at_least, times.in_turns) == pytest.approx((7, 16))


def test_links_between_hosts_of_gpus_are_slower_than_within_one():
    counts = Counts(flops=0.0, hbm_bytes=0.0, sent={"collective-permute": 1e9, "all-reduce": 1e9})
    one, four = (estimate_times(counts, H100, num_chips=n).links for n in (8, 32))
    assert one == pytest.approx(2e9 / 450e9)
    assert four == pytest.approx(1e9 / 50e9 + 1e9 / 400e9)


def test_a_step_that_fits_and_is_bound_by_products_needs_no_advice():
    assert advise(SMALL, Times(3, 2, 1), {}, V5E, remat="none", fsdp=1, attention="pallas") == []


def test_free_memory_is_offered_to_what_is_computed_twice():
    (advice,) = advise(SMALL, Times(3, 2, 1), {}, V5E, remat="full", fsdp=1, attention="pallas")
    assert "12.9 GiB" not in advice
    assert "remat = 'dots'" in advice


@pytest.mark.parametrize(
    ("part", "remat", "word"),
    [
        ("activations", "none", "config.model.remat = 'full'"),
        ("activations", "full", "more chips"),
        ("loss", "full", "chunk_size"),
        ("parameters", "full", "config.mesh.fsdp"),
    ],
)
def test_the_part_that_is_too_large_is_the_first_to_change(part, remat, word):
    memory = SMALL._replace(**{part: 20 * GIB})
    first = advise(memory, Times(3, 2, 1), {}, V5E, remat=remat, fsdp=1, attention="pallas")[0]
    assert word in first


def test_a_gpu_has_three_quarters_unless_told():
    memory = SMALL._replace(activations=0.8 * H100.memory)
    assert (
        "MEM_FRACTION"
        in advise(memory, Times(3, 2, 1), {}, H100, remat="full", fsdp=1, attention="pallas")[0]
    )


def test_scores_in_memory_are_named_with_the_kernel_of_the_chip():
    def advice(chip, attention):
        times = Times(2, 3, 1)
        return advise(SMALL, times, {}, chip, remat="none", fsdp=1, attention=attention)

    assert "attention = 'pallas'" in advice(V5E, "xla")[-1]
    assert "attention = 'cudnn'" in advice(H100, "xla")[-1]
    assert not any("attention" in line for line in advice(V5E, "pallas"))


def test_slow_links_are_blamed_on_the_collective_that_sends_most():
    def blame(sent, fsdp):
        return advise(
            SMALL, Times(1, 2, 3), sent, V5E, remat="none", fsdp=fsdp, attention="pallas"
        )[0]

    assert "smaller config.mesh.fsdp" in blame({"all-gather": 2.0, "all-reduce": 1.0}, 16)
    assert "ring of the loss" in blame({"collective-permute": 2.0, "all-reduce": 1.0}, 1)
    assert "by all-reduce" in blame({"all-reduce": 1.0}, 1)


def test_a_refused_step_says_what_to_try_and_why():
    advice = advise_refused("used 30 GiB of 15", remat="none", fsdp=1)
    assert "remat" in advice[0]
    assert "fsdp" in advice[1]
    assert advice[-1] == "used 30 GiB of 15"
