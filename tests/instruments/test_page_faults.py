import sys

import numpy as np
import pytest

from moe_numpy.instruments.page_faults import page_faults


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count them")
def test_fresh_memory_is_supplied_page_by_page():
    assert page_faults(lambda: np.ones(2**24, np.float32)) >= 32  # 64 MB, in pages of at most 2 MB
    assert page_faults(lambda: None) < 32


def test_none_where_the_system_does_not_count(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows: the import fails
    assert page_faults(lambda: None) is None
