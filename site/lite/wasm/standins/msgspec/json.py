"""JSON to values of a type, and back."""

import json
from typing import Any

from . import DecodeError, convert, to_builtins


def decode(content: bytes | str, *, type: Any = Any) -> Any:
    """The value of this type. DecodeError if there is none."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DecodeError(f"JSON is malformed: {error}") from error
    return convert(value, type)


def encode(value: Any) -> bytes:
    """The value as JSON."""
    return json.dumps(to_builtins(value), separators=(",", ":"), ensure_ascii=False).encode()
