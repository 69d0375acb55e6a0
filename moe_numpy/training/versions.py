"""The versions that a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("moe_numpy", "numpy", "numba", "array-api-compat", "safetensors")  # those that compute and store


def versions() -> dict[str, str]:
    """Python and the packages that take part in the numbers, by name; without those that are not installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
