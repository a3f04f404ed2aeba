"""Every table of names is used both ways: writing undoes reading, for each layout and form."""

from contextlib import ExitStack

import jax
import numpy as np
import pytest

from bias_clip.pretrained import load_pretrained
from bias_clip.pretrained.assemble import flat
from bias_clip.pretrained.layouts import table
from bias_clip.pretrained.load import _choose, _describe
from bias_clip.pretrained.place import open_place
from tests.pretrained.cases import GOLDEN
from tests.pretrained.test_oracles import ARGUMENTS, FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_writing_undoes_reading(folder):
    params = flat(load_pretrained(GOLDEN / folder, **ARGUMENTS.get(folder, {})).params)
    with ExitStack() as stack:
        place = open_place(str(GOLDEN / folder), stack)
        name, weights = _choose(place)
        described = _describe(place, name, weights.tensors)
    written = {}
    for entry in described.entries:
        if entry.ours not in params or entry.plus is not None:  # the sum of two cannot be parted
            continue
        array = np.asarray(params[entry.ours])
        names = table.names_in_file(entry, len(array) if table.is_layered(entry) else 1)
        for i, name in enumerate(names):
            part = table.to_file(entry, array[i] if "{i}" in entry.theirs else array)
            written.setdefault(name, {})[entry.part] = part
    assert len(written) > 30
    for name, parts in written.items():
        whole = np.concatenate([parts[i] for i in sorted(parts)]) if len(parts) > 1 else parts[0]
        expected = np.asarray(described.tensors[name].array(), np.float32)
        np.testing.assert_array_equal(whole.reshape(expected.shape), expected, err_msg=name)


def test_axes_are_those_of_torch():
    entry = table.linear("query", "q", table.HEADS)[0]
    x = np.arange(24.0).reshape(4, 2, 3)  # [in, heads, size]
    matrix = table.to_file(entry, x)
    token = np.arange(4.0)
    np.testing.assert_array_equal(matrix @ token, np.einsum("i,ihk->hk", token, x).reshape(-1))
    back = table.from_file(entry, matrix, x.shape)
    np.testing.assert_array_equal(back, x)
    assert back.base is not None  # a view: nothing was read for it
    assert jax.tree.leaves(table.file_shape(entry, x.shape)) == [6, 4]
