"""Numbers for people: percent, and amounts in the largest unit that fits."""


def percent(share: float) -> str:
    """0.125 as 12.5 %."""
    return f"{100 * share:.1f} %"


def short(number: float) -> str:
    """1234567 as 1.235M; K, M, B and T are powers of 1000."""
    return _scaled(number, 1000, ("", "K", "M", "B", "T"))


def flop(number: float) -> str:
    """FLOPs in powers of 1000: 1234567 as 1.235 MFLOP."""
    return _scaled(number, 1000, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"))


def size(number: float) -> str:
    """Bytes in powers of 1024: 2048 as 2 KiB."""
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def duration(seconds: float) -> str:
    """0.0012 as 1.2 ms."""
    return _scaled(seconds * 1e9, 1000, (" ns", " µs", " ms", " s"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    """At most four digits, in the largest unit that gives at least 1."""
    scale = 0
    while scale < len(units) - 1 and number >= base ** (scale + 1):
        scale += 1
    return f"{number / base**scale:.4g}{units[scale]}"
