import gc

import numpy as np
import pytest

from moe_numpy.kernels import workspace

LARGE = (1 << 10, 1 << 10)


@pytest.fixture(autouse=True)
def _nothing_idle():
    gc.collect()
    workspace.release()
    yield
    workspace.release()


def address(x):
    return x.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_array_is_gone():
    x = workspace.empty(LARGE, np.float32)
    first = address(x)
    del x
    assert workspace.idle_bytes() >= 4 << 20
    y = workspace.empty((1 << 9, 1 << 10), np.float64)
    assert address(y) == first
    assert workspace.idle_bytes() == 0


@pytest.mark.parametrize("view", [lambda x: x[3:5], lambda x: x.reshape(-1)[::7], lambda x: x.T.view(np.int32)])
def test_memory_in_view_is_never_used_again(view):
    x = workspace.empty(LARGE, np.float32)
    x[:] = 1
    kept = view(x)
    before = kept.copy()
    del x
    workspace.empty(LARGE, np.float32)[:] = 2
    np.testing.assert_array_equal(kept, before)


def test_arrays_are_plain_aligned_and_writable():
    x = workspace.empty((3, 1 << 18), np.float64)
    assert type(x) is np.ndarray
    assert x.dtype == np.float64
    assert x.shape == (3, 1 << 18)
    assert x.flags.c_contiguous
    assert x.flags.writeable
    assert address(x) % 64 == 0


def test_small_arrays_are_left_to_numpy():
    x = workspace.empty((10,), np.float32)
    del x
    assert workspace.idle_bytes() == 0


def test_idle_memory_has_a_limit(monkeypatch):
    monkeypatch.setattr(workspace, "LARGEST_IDLE", 5 << 20)
    x, y = workspace.empty(LARGE, np.float32), workspace.empty(LARGE, np.float32)
    del x, y
    assert 4 << 20 <= workspace.idle_bytes() <= 5 << 20
