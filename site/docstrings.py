"""Sphinx reads the docstrings: formulas keep their lines, and their symbols are no markup.

In a docstring an indented block is a formula or a table, unless it stands below ``Args:`` and the like.
"""

import re
from typing import Any

_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Note|Example|Examples):$")
_LIST = re.compile(r"([-*]|\d+\.) ")
_CODE = re.compile(r"(:[\w:]+:`[^`]*`|``.*?``)")  # roles and literals stay as they are


def setup(app: Any) -> dict[str, bool]:
    """Before napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", _rewrite, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _rewrite(app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    lines[:] = rewritten(lines)


def rewritten(lines: list[str]) -> list[str]:
    """The lines with a literal block for each indented one, and without markup elsewhere."""
    done: list[str] = []
    opener, literal = "", False  # the last line that is not indented; whether this is a block of layout
    for line in lines:
        indented = line.startswith(" ")
        if not line.strip():
            done.append("")
            continue
        if not indented:
            if literal and done[-1]:
                done.append("")
            opener, literal = line, False
        elif not literal and not _SECTION.match(opener) and not _LIST.match(opener):
            literal = True
            if not opener.endswith("::"):
                done += ["", "::", ""]
            elif done[-1]:
                done.append("")
        done.append(line if literal else _without_markup(line))
    return done


def _without_markup(line: str) -> str:
    head = re.match(r"\s*", line)[0]
    bullet = "- " if line[len(head) :].startswith("- ") else ""
    parts = _CODE.split(line[len(head) + len(bullet) :])
    return head + bullet + "".join(part if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([*|])|(?<=\w)_(?!\w)", lambda match: "\\" + match[0], text)
