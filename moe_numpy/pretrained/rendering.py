"""Renders one chat template, in a process of its own: a template is somebody else's program.

Reads a JSON object from standard input, with ``template``, ``variables`` and the limits, and writes one to standard
output, with ``text`` or ``error``. It imports nothing of this package.

The environment is that of transformers, whose templates these are: https://huggingface.co/docs/transformers/main/en/
chat_templating_writing
"""

import json
import sys
import traceback
from contextlib import suppress
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace


class Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``, around what the assistant says: shown as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_shown"), [], [], body).set_lineno(line)

    def _shown(self, caller: Any) -> str:
        return str(caller())


class PublicNamespace(Namespace):
    """``namespace()`` without names that lead into Python."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *given = args
        values = dict(*given, **values)
        for name in values:
            _require_public(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


class PlainDict:
    """``dict()``, and nothing else of that class but ``fromkeys``."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        """A dictionary with these keys and one value."""
        return dict.fromkeys(*values)


def environment() -> ImmutableSandboxedEnvironment:
    """What templates are written for."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _to_json
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": PlainDict(),
        "namespace": PublicNamespace,
    }
    return made


def render(template: str, variables: dict[str, Any], most_characters: int) -> str:
    """The text of a template. ValueError where it is longer."""
    pieces, length = [], 0
    for piece in environment().from_string(template).generate(**variables):
        length += len(piece)
        if length > most_characters:
            raise ValueError(f"it writes more than {most_characters:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def explained(error: Exception) -> str:
    """What went wrong and in which line of the template, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), None)
    said = str(error)
    if isinstance(error, jinja2.TemplateSyntaxError):
        line, said = error.lineno, error.message or ""
    elif isinstance(error, RecursionError):
        said = "it is nested too deeply, or calls itself without end"
    elif isinstance(error, MemoryError):
        said = "it needs too much memory"
    elif not isinstance(error, jinja2.TemplateError | ValueError):
        said = f"{type(error).__name__}: {said}"
    return (f"line {line}: " if line else "") + " ".join(said.split())[:500]


def main() -> None:
    """Answer the one request."""
    request = json.load(sys.stdin)
    _limit(request["seconds"], request["memory"])
    try:
        answer = {"text": render(request["template"], request["variables"], request["characters"])}
    except Exception as error:
        answer = {"error": explained(error)}
    json.dump(answer, sys.stdout)


def _limit(seconds: int, memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits: there, only the clock of the caller ends a template
        return
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_AS: (memory,) * 2,
    }
    for kind, limit in limits.items():
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, limit)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _require_public(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name that begins with an underscore, got {name!r}")


if __name__ == "__main__":
    main()
