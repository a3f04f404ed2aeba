import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Shape checking off, as it is for users, so that our own messages are seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
