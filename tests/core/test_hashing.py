"""SplitMix64 by its definition, in integers of Python; and what makes it worth using."""

import numpy as np
import pytest

from bias_clip.core.hashing import array_sha256, make_key, mix

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15


def by_definition(seed, count):
    """The first outputs of the generator: its state grows by GAMMA, and each state is mixed."""
    out = []
    for _ in range(count):
        seed = (seed + GAMMA) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def unmixed(z):
    """The inverse of `mix`, in integers of Python."""
    z ^= (z >> 31) ^ (z >> 62)
    z = (z * pow(0x94D049BB133111EB, -1, 2**64)) & MASK
    z ^= (z >> 27) ^ (z >> 54)
    z = (z * pow(0xBF58476D1CE4E5B9, -1, 2**64)) & MASK
    z ^= (z >> 30) ^ (z >> 60)
    return (z - GAMMA) & MASK


@pytest.mark.parametrize("seed", [0, 1, 1234567, MASK, 2**63])
def test_values_are_those_of_the_generator(seed):
    states = np.uint64(seed) + np.arange(50, dtype=np.uint64) * np.uint64(GAMMA)
    assert mix(states).tolist() == by_definition(seed, 50)


def test_published_values():
    """Seed 1234567, as the generator's public reference programs print it."""
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(GAMMA)
    assert mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_it_is_a_bijection():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, 1000, dtype=np.uint64)
    assert [unmixed(z) for z in mix(x).tolist()] == x.tolist()
    assert len(np.unique(mix(np.arange(100_000, dtype=np.uint64)))) == 100_000


def test_every_bit_depends_on_every_bit():
    x = np.random.default_rng(1).integers(0, 2**64, 2000, dtype=np.uint64)
    for bit in range(64):
        changed = mix(x) ^ mix(x ^ np.uint64(1 << bit))
        share = np.unpackbits(changed.view(np.uint8)).reshape(-1, 64).mean(0)
        assert np.abs(share - 0.5).max() < 0.06  # 5 standard deviations


def test_shapes_stay_and_nothing_warns():
    with np.errstate(all="raise"):
        assert mix(np.full((2, 3), MASK, np.uint64)).shape == (2, 3)


def test_keys_tell_lists_apart_and_stay_what_they_are():
    lists = [(), (1,), (11,), (1, 1), (1, "1"), ("a", "b"), ("ab",)]
    keys = [int(make_key(*parts)) for parts in lists]
    assert len(set(keys)) == len(lists) - 1  # 1 and "1" are written alike
    assert make_key(1, 1) == make_key(1, "1")
    assert int(make_key(0, 1, "members")) == REGISTERED


REGISTERED = 11055361518994997602


def test_a_hash_of_numbers_does_not_depend_on_the_order_of_their_bytes():
    little, big = (np.arange(5).astype(order + "i4") for order in "<>")
    assert array_sha256(little) == array_sha256(big)
    assert array_sha256(little) != array_sha256(little.astype("<i8"))
