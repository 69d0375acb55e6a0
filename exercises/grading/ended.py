"""What stands in the place of an answer that did not come."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """There is no answer; ``reason`` says why in words."""

    reason: str
