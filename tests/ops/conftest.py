import jaxtyping
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def unchecked(monkeypatch):
    """No run-time shape checks, so that bad input meets the errors of the library itself, as a user would."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
