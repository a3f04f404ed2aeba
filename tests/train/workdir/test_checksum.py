"""Every change of one or two words, in any place, changes the checksum of an array; so do bursts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bias_clip.train.sharding import make_mesh
from bias_clip.train.workdir.checksum import _checksum, checksums


def many(variants):
    """Checksums [k, 8] of arrays [k, ...]."""
    return np.stack(jax.jit(jax.vmap(_checksum))(jnp.asarray(variants)), axis=1)


def unnoticed(x, changed):
    before = np.stack(_checksum(jnp.asarray(x)))
    return int((many(changed) == before).all(axis=1).sum())


def of_bits(x):
    return x.view(f"u{x.dtype.itemsize}")


@pytest.mark.parametrize(("dtype", "size"), [("f4", 6), ("f2", 12), ("u1", 20)])
def test_every_pair_of_flipped_bits_is_noticed(dtype, size):
    """Exhaustive: 192, 192 and 160 bits: 18,336, 18,336 and 12,720 pairs, and each bit alone."""
    x = np.random.default_rng(0).integers(0, 255, size).astype(dtype)
    width = 8 * x.dtype.itemsize
    one = of_bits(np.zeros((size * width, size), dtype))
    one[np.arange(size * width), np.arange(size * width) // width] = np.left_shift(
        np.ones(width, one.dtype), np.arange(width, dtype=one.dtype)
    )[np.arange(size * width) % width]
    pairs = np.asarray(list(itertools.combinations(range(len(one)), 2)))
    flips = np.concatenate([one, one[pairs[:, 0]] ^ one[pairs[:, 1]]])
    assert unnoticed(x, (of_bits(x) ^ flips).view(dtype)) == 0


@pytest.mark.parametrize("bit", [31, 30, 16, 15, 0])
def test_the_same_bit_flipped_in_any_two_places_is_noticed(bit):
    """All 2,016 pairs of places of 8 x 8 words; a sum of weighted bits misses those of bit 31."""
    x = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    pairs = np.asarray(list(itertools.combinations(range(64), 2)))
    changed = np.repeat(x.reshape(1, 64), len(pairs), axis=0).view(np.uint32)
    for column in pairs.T:
        changed[np.arange(len(pairs)), column] ^= np.uint32(1 << bit)
    assert unnoticed(x, changed.view(np.float32).reshape(-1, 8, 8)) == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("all signs", lambda x: -x),
        (
            "two signs",
            lambda x: x * np.where(np.arange(x.size) % 1000 == 5, -1, 1).reshape(x.shape),
        ),
        ("rows swapped", lambda x: x[::-1]),
        ("columns swapped", lambda x: x[:, ::-1]),
        ("moved by one", lambda x: np.roll(x, 1)),
        ("a row of zeros", lambda x: x * (np.arange(len(x)) != 7)[:, None]),
        ("transposed", lambda x: x.reshape(x.shape[::-1]).T),
    ],
)
def test_changes_with_a_pattern_are_noticed(name, change):
    x = np.random.default_rng(2).normal(size=(64, 48)).astype(np.float32)
    changed = np.ascontiguousarray(change(x).astype(np.float32))
    assert checksums({"a": jnp.asarray(changed)}) != checksums({"a": jnp.asarray(x)}), name


def test_two_changed_words_that_a_plain_sum_cannot_tell_are_noticed():
    """Random d at one place and -d at another, more than 2**16 places apart or near: the hard case."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, 2**32, 70_000, np.uint32)
    before = checksums({"x": jnp.asarray(x)})
    for step in range(60):
        gap = 65_536 if step % 2 else int(rng.integers(1, 65_536))
        i = int(rng.integers(0, len(x) - gap))
        d = (
            rng.integers(1, 2**32, 1, np.uint32)
            if step % 3
            else 1 << rng.integers(0, 32, 1, np.uint32)
        )
        y = x.copy()
        y[[i, i + gap]] += np.concatenate([d, -d])
        assert checksums({"x": jnp.asarray(y)}) != before


def test_bursts_of_every_length_and_random_changes_are_noticed():
    rng = np.random.default_rng(4)
    x = rng.normal(size=256).astype(np.float32)
    changed = np.repeat(x[None], 4096, axis=0).view(np.uint8)
    for row in changed:  # from 1 byte to all of them
        start, stop = sorted(rng.choice(1025, 2, replace=False))
        row[start:stop] ^= rng.integers(1, 256, stop - start, np.uint8)
    assert unnoticed(x, changed.view(np.float32)) == 0


@pytest.mark.slow
def test_a_million_random_changes_of_two_to_four_words_are_noticed():
    rng = np.random.default_rng(5)
    x = rng.normal(size=32).astype(np.float32)
    for _ in range(16):
        changed = np.repeat(x[None], 65_536, axis=0).view(np.uint32)
        for _ in range(rng.integers(2, 5)):
            places = rng.integers(0, 32, len(changed))
            changed[np.arange(len(changed)), places] ^= np.uint32(1) << rng.integers(
                0, 32, len(changed), np.uint32
            )
        same = (changed == x.view(np.uint32)).all(axis=1)  # flips that undid each other
        assert unnoticed(x, changed[~same].view(np.float32)) == 0


def test_no_sharding_changes_the_number():
    x = np.random.default_rng(6).normal(size=(16, 8)).astype(np.float32)
    expected = checksums({"x": jnp.asarray(x)})
    for spec in [("data",), (None, "data"), (("data", "fsdp"),), ("fsdp", "data")]:
        mesh = make_mesh(data=4, fsdp=2)
        where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        assert checksums({"x": jax.device_put(x, where)}) == expected
    assert len(expected["x"]) == 64
    assert len({expected["x"][i : i + 8] for i in range(0, 64, 8)}) > 6
