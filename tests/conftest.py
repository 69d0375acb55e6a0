"""Tests marked ``gpu`` are skipped, with the reason, where they cannot run."""

import gc

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # how long an example takes is not what a test is about
settings.load_profile("any machine")


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    from moe_numpy import devices  # here, not above: the checker of shapes must be installed first

    reason = devices.why_no_gpu()
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    """What is there by now stays until the end: no search for garbage shall walk through it again."""
    gc.collect()
    gc.freeze()
