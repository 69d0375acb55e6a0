"""Amounts of memory on the command line, such as 300MB, 4GB and 1.5GiB."""

import re
from decimal import Decimal

import typer

_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
}
_BY_LOWER = {unit.lower(): size for unit, size in _UNITS.items()}


def given_size(text: str) -> int:
    """Bytes of a positive amount with a unit, rounded down."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]+)", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(Decimal(found[1]) * _BY_LOWER.get(found[2].lower(), 0)) if found else 0
    if size < 1:
        raise typer.BadParameter(
            f"{text!r} is no amount of memory: expected a positive number and a unit, {', '.join(_UNITS)}, as in 1.5GiB"
        )
    return size
