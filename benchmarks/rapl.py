"""Joules that the processor counts (RAPL), as Linux shows them below /sys/class/powercap.

A zone ``intel-rapl:N`` is a processor package, on AMD too, and ``intel-rapl:N:M`` a part of it. Added up are the
packages and the memory (``dram``), which a package does not contain; ``core`` and ``uncore`` are inside a package, and
``psys`` contains it. ``energy_uj`` counts microjoules up to ``max_energy_range_uj``, then starts again at 0: less than
one such round must pass between two readings, 262 kJ on many machines, which takes 44 minutes at 100 W.

Source: Linux, Documentation/power/powercap/powercap.rst; Intel, Software Developer's Manual, volume 3B, section 15.10.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_COUNTED = ("package", "dram")


class EnergyError(ValueError):
    """This machine counts no energy, or lets nobody read it; the message says which and what would help."""


class Meter:
    """The zones of a machine.

    Args:
        root: where the zones are.

    Raises:
        EnergyError: there is none, or one cannot be read.
    """

    def __init__(self, root: Path = POWERCAP):
        zones = sorted(root.glob("intel-rapl:*"))
        self.zones = [zone for zone in zones if _text(zone / "name").startswith(_COUNTED)]
        if not self.zones:
            found = "none of its zones is a package" if zones else "there is no intel-rapl zone"
            raise EnergyError(f"{root}: {found}; this machine, or the virtual machine, counts no energy")
        self._range = {zone: _number(zone / "max_energy_range_uj") for zone in self.zones}
        self.read()

    def read(self) -> dict[Path, int]:
        """Microjoules by zone, since some time."""
        return {zone: _number(zone / "energy_uj") for zone in self.zones}

    def joules(self, before: dict[Path, int], after: dict[Path, int]) -> float:
        """The energy of all zones between two readings, which may have passed the end of the range once."""
        used = 0
        for zone in self.zones:
            passed = after[zone] - before[zone]
            used += passed if passed >= 0 else passed + self._range[zone]
        return used / 1e6


def _number(path: Path) -> int:
    text = _text(path)
    if not text.isdecimal():
        raise EnergyError(f"{path} should be a number of microjoules, got {text!r}")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        raise EnergyError(f"{path} is for root only; run as root, or: sudo chmod a+r {path}") from error
    except OSError as error:
        raise EnergyError(f"{path} cannot be read: {error.strerror}") from error
