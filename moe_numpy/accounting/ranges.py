"""Refusing sizes that no model can have."""


def require_at_least(least: int, of: object, *names: str) -> None:
    """Raise ValueError for the first of the named attributes that is below ``least``."""
    for name in names:
        value = getattr(of, name)
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
