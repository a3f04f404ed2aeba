"""A checkpoint is used only in its own place: folder, state and place in the data belong together."""

import shutil

import jax
import jax.numpy as jnp
import pytest

from bias_clip.train.state import TrainState
from bias_clip.train.workdir import checkpoint
from bias_clip.train.workdir.initial_state import first_state


def state_of(step):
    return TrainState(jnp.int32(step), {"a": jnp.full((8, 8), float(step))}, {}, None)


def abstract():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state_of(0)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places") / "checkpoints"
    with checkpoint.open_checkpoints(folder, keep=5) as manager:
        for step in (14, 21):
            checkpoint.save(manager, step, state_of(step), {"iterator": {"step": step}})
        checkpoint.wait(manager)
    return folder


def swap_item(folder, item):
    shutil.rmtree(folder / "21" / item)
    shutil.copytree(folder / "14" / item, folder / "21" / item)


def copy_over(folder):
    shutil.rmtree(folder / "21")
    shutil.copytree(folder / "14", folder / "21")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.copytree(f / "14", f / "28"), "saved as step 14, and lies in the .*28"),
        (copy_over, r"saved as step 14, .*of 21.*after step 14, the newest that is whole"),
        (lambda f: (f / "21").rename(f / "35"), "saved as step 21, and lies in the place of 35"),
        (lambda f: swap_item(f, "state"), "2 arrays are not what was saved"),
        (lambda f: swap_item(f, "data"), "saved as step 14, and lies in the place of 21"),
    ],
)
def test_a_checkpoint_in_the_place_of_another_step_is_refused(saved, tmp_path, change, message):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    change(folder)
    with (
        checkpoint.open_checkpoints(folder, keep=5) as manager,
        pytest.raises(ValueError, match=message),
    ):
        checkpoint.restore(manager, manager.latest_step(), abstract())


class Setup:
    abstract_state = None


def test_a_state_or_a_place_in_the_data_of_another_step_is_refused(tmp_path):
    setup = Setup()
    setup.abstract_state = abstract()
    with checkpoint.open_checkpoints(tmp_path, keep=5) as manager:
        for folder, of_state, of_data in ((1, 1, 2), (3, 2, 3)):
            checkpoint.save(manager, folder, state_of(of_state), {"iterator": {"step": of_data}})
            checkpoint.wait(manager)
            with pytest.raises(ValueError, match=rf"after steps \[\d, \d\], expected {folder}"):
                first_state(setup, manager, None, seed=0, init_from=None)
