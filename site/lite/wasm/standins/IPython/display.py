"""Where a notebook shows something, nothing is shown."""

from typing import Any


class Markdown:
    """Text to show."""

    def __init__(self, data: str):
        self.data = data


def display(*shown: Any, raw: bool = False) -> None:
    """Nothing looks at it."""


publish_display_data = display
