import jax
import pytest


@pytest.fixture
def x64():
    """Double precision for one test, so that equal means equal to twelve digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """Shape checking off, as it is for users, so that our own messages are seen."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
