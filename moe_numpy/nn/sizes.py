"""Sizes of layers: how many, how long."""

import operator
from typing import Any

MOST = 100_000  # layers or experts: what goes through them one by one still ends


def require_sizes(**sizes: Any) -> None:
    """ValueError for a size that is not an integer of at least 1; the message names it."""
    for name, size in sizes.items():
        try:
            enough = operator.index(size) >= 1
        except TypeError:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r:.60}") from None
        if not enough:
            raise ValueError(f"{name} must be at least 1, got {size}")


def require_countable(**counts: int) -> None:
    """ValueError for more layers or experts than :data:`MOST`; the message names the count."""
    for name, count in counts.items():
        if count > MOST:
            raise ValueError(f"{name} must be at most {MOST:,}, got {count}")
