"""A figure as an SVG of half the bytes that matplotlib writes, so that a notebook can hold several."""

import re
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

_UNSEEN = re.compile(r"<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.\d+")
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(?<=href="#)[^"]+|(?<=url\(#)[^)]+')
_SHIFT = re.compile(r'(<use href="[^"]*") transform="translate\(([^ )]+) ([^)]+)\)"/>')
_AROUND_COMMANDS = re.compile(r' ?([MLQCHVz]) ?(?=[-.\d"])')


def small_svg(figure: Figure) -> str:
    """The figure with its letters as outlines, the same on every machine and the same bytes each time.

    Numbers keep two decimals, a hundredth of a point, or four digits below 1; names that nothing refers to, and what
    is not drawn, are left out.
    """
    file = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "moe_numpy"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = _UNSEEN.sub("", text[text.index("<svg") :]).replace("xlink:href", "href")
    text = _NUMBER.sub(_short, text)
    names = {name: f"i{i}" for i, name in enumerate(dict.fromkeys(_REFERENCE.findall(text)))}
    text = _ID.sub(lambda match: f' id="{names[match[1]]}"' if match[1] in names else "", text)
    text = _REFERENCE.sub(lambda match: names[match[0]], text)
    text = _SHIFT.sub(r'\1 x="\2" y="\3"/>', text)
    text = " ".join(text.split()).replace("> <", "><").replace("; ", ";").replace(": ", ":")
    return _AROUND_COMMANDS.sub(r"\1", text)


def _short(number: re.Match[str]) -> str:
    value = float(number[0])
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.4g}"
