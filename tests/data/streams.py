"""Batches of a stream, and whether two streams gave the same ones."""

import itertools
import json

import numpy as np

from bias_clip.data.stream.pipeline import make_train_iterator


def open_stream(source, fns, **arguments):
    """A stream of batches of 8, without threads, unless the arguments differ."""
    return make_train_iterator(
        source, **fns, **{"batch_size": 8, "seed": 1, "num_threads": 0, **arguments}
    )


def batches(source, fns, count, *, start=None, **arguments):
    """The first `count` batches of a stream, or those after a state."""
    return batches_and_state(source, fns, count, start=start, **arguments)[0]


def batches_and_state(source, fns, count, *, start=None, **arguments):
    """The same, and the state after them as it returns from a file."""
    with open_stream(source, fns, **arguments) as stream:
        if start is not None:
            stream.set_state(start)
        found = list(itertools.islice(stream, count))
        return found, json.loads(json.dumps(stream.get_state()))


def assert_same(got, expected):
    """Every column of every batch is equal, bit for bit."""
    assert len(got) == len(expected)
    for one, two in zip(got, expected, strict=True):
        assert sorted(one) == sorted(two)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
