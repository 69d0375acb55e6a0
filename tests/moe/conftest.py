import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch):
    """No run-time shape checks, so that bad input meets the errors of the library itself, as a user would."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
