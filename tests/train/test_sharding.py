"""Meshes, and which device holds what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bias_clip.train.sharding import (
    check_batch_size,
    make_mesh,
    to_global,
    tree_shardings,
)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def specs(tree, rules, mesh):
    return jax.tree.map(lambda sharding: sharding.spec, tree_shardings(tree, rules, mesh))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({}, (8, 1, 1)), ({"fsdp": 4}, (2, 4, 1)), ({"data": 2, "fsdp": -1, "tensor": 2}, (2, 2, 2))],
)
def test_free_axis_takes_the_devices_that_are_left(sizes, expected):
    assert tuple(make_mesh(**sizes).shape.values()) == expected


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "fsdp": -1}, {"fsdp": 16}])
def test_mesh_that_does_not_fit_is_refused_with_the_device_count(sizes):
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(**sizes)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax asks a device for to place it in the network."""

    id: int
    coords: tuple[int, int, int]
    process_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    slice_index: int = 0


def v6e_8x8():
    """64 chips; a host drives 2x2 of them."""
    places = [(x, y, 0) for y in range(8) for x in range(8)]
    return [Chip(i, (x, y, z), y // 2 * 4 + x // 2) for i, (x, y, z) in enumerate(places)]


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 16}, {"fsdp": 4}, {"data": 2, "fsdp": 32}])
def test_axis_that_is_no_whole_side_of_the_chips_gets_a_block_of_them(sizes):
    mesh = make_mesh(**sizes, devices=v6e_8x8())
    assert {chip.id for chip in mesh.devices.flat} == set(range(64))
    for group in mesh.devices.reshape(-1, sizes["fsdp"]):
        x, y = (len({chip.coords[axis] for chip in group}) for axis in (0, 1))
        assert x * y == sizes["fsdp"]


def test_tensor_group_over_hosts_is_refused_on_split_sides_too():
    assert make_mesh(tensor=2, devices=v6e_8x8()).shape["tensor"] == 2
    with pytest.raises(ValueError, match=r"tensor=8 puts devices of several processes"):
        make_mesh(tensor=8, devices=v6e_8x8())


def test_only_data_goes_over_several_slices():
    second = [
        dataclasses.replace(c, id=c.id + 64, process_index=c.process_index + 16, slice_index=1)
        for c in v6e_8x8()
    ]
    mesh = make_mesh(fsdp=16, devices=v6e_8x8() + second)
    assert mesh.shape["data"] == 8
    for group in mesh.devices.reshape(-1, 16):
        assert len({chip.slice_index for chip in group}) == 1
    with pytest.raises(ValueError, match="data=1 does not divide over 2 TPU slices"):
        make_mesh(fsdp=128, devices=v6e_8x8() + second)


def test_first_matching_rule_wins():
    tree = {"img": {"kernel": shape(256, 512)}, "txt": {"kernel": shape(256, 512)}}
    rules = [("img/", "replicate"), ("kernel", ("fsdp", None))]
    got = specs(tree, rules, make_mesh(fsdp=4))
    assert got["img"]["kernel"] == PartitionSpec()
    assert got["txt"]["kernel"] == PartitionSpec("fsdp", None)


def test_fsdp_splits_the_largest_divisible_dimension_and_leaves_small_leaves_whole():
    tree = {"a": shape(2, 256, 512), "odd": shape(128, 511), "small": shape(64)}
    got = specs(tree, [(".*", "fsdp")], make_mesh(fsdp=4))
    assert got["a"] == PartitionSpec(None, None, "fsdp")
    assert got["odd"] == PartitionSpec("fsdp", None)
    assert got["small"] == PartitionSpec()


def test_leaf_without_a_rule_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="no sharding rule matches 'txt/head'"):
        specs({"txt": {"head": shape(4, 4)}}, [("img", "replicate")], make_mesh())


def test_axis_that_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="does not divide 6"):
        specs({"w": shape(6, 8)}, [(".*", ("fsdp", None))], make_mesh(fsdp=4))


def test_batch_is_split_over_both_axes_in_order():
    mesh = make_mesh(fsdp=4)
    rows = np.arange(16)
    batch = to_global({"x": rows}, mesh)
    np.testing.assert_array_equal(batch["x"], rows)
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2,)}


def test_batch_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(ValueError, match="try 96"):
        check_batch_size(100, make_mesh())
