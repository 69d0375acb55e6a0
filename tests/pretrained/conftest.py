"""What several of these tests need."""

import pytest
from unchecked_shapes import unchecked_shapes


@pytest.fixture
def unchecked():
    """Without the run-time checks of types and shapes, which would take most of the time."""
    with unchecked_shapes():
        yield
