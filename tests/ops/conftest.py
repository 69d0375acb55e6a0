import jaxtyping
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def unchecked(monkeypatch):
    """No run-time shape checks, so that bad input raises the library's own errors, as for a user."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
