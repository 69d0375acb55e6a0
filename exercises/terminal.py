"""Symbols on a terminal that has none: an encoding such as cp1252 or ASCII."""

import codecs
import io
import sys
import unicodedata

_SYMBOLS = {
    "✓": "+",
    "✗": "x",
    "→": "->",
    "←": "<-",
    "·": ".",
    "×": "x",
    "−": "-",
    "–": "-",
    "“": '"',
    "”": '"',
    "’": "'",
    "λ": "lambda",
    "Λ": "Lambda",
    "√": "sqrt",
    "∂": "d",
    "∞": "inf",
    "≈": "~",
    "≠": "!=",
    "≤": "<=",
    "≥": ">=",
    "∈": "in",
    "⌊": "floor(",
    "⌋": ")",
    "⌈": "ceil(",
    "⌉": ")",
}


def spell_out_symbols() -> None:
    """Let stdout and stderr write what their encoding lacks in its letters, instead of failing."""
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spelled")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(symbol: str) -> str:
    """``Σ`` is Sigma, ``₂`` is 2, ``✓`` is +; what has no such form is ?."""
    if symbol in _SYMBOLS:
        return _SYMBOLS[symbol]
    plain = unicodedata.normalize("NFKD", symbol).encode("ascii", "ignore").decode()
    words = unicodedata.name(symbol, "").split()
    if not plain and words[:1] == ["GREEK"]:
        plain = words[-1].capitalize() if "CAPITAL" in words else words[-1].lower()
    return plain or "?"
