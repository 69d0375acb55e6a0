"""Structs as dictionaries, and changed."""

import dataclasses
from typing import Any

replace = dataclasses.replace


def asdict(value: Any) -> dict[str, Any]:
    """The fields by name, as they are."""
    return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
