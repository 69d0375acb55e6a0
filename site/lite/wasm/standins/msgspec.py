"""What msgspec is to modules that are imported and not used: the WebAssembly Python of the tests has none."""

import dataclasses
from typing import Any, dataclass_transform


class ValidationError(ValueError):
    """A value of another type."""


class DecodeError(ValueError):
    """No JSON."""


def field(*, default: Any = dataclasses.MISSING, default_factory: Any = dataclasses.MISSING, name: str = "") -> Any:
    """A field of a Struct."""
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"name": name})


@dataclass_transform()
class Struct:
    """A frozen dataclass."""

    def __init_subclass__(cls, **settings: Any):
        for name, default in list(vars(cls).items()):
            if isinstance(default, dict | list | set):
                setattr(cls, name, dataclasses.field(default_factory=default.copy))
        dataclasses.dataclass(frozen=True)(cls)


class Meta:
    """Limits of a field, which nothing checks here."""

    def __init__(self, **limits: Any):
        self.limits = limits
