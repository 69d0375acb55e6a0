"""Tools, and calls of them as JSON: ``{"tool": "calculator", "expression": "17 * 23"}``.

A call is checked against its schema before anything runs; the error says where it is wrong and what was expected.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from .archive import Archive
from .calculator import MAX_CHARACTERS, calculate
from .kinds import KINDS
from .memory import Memory

MAX_QUERY = 2000  # characters
MAX_WRITTEN = 2000  # bytes


class Calculate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="calculator"):
    """The exact value of an expression in Python's notation."""

    expression: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHARACTERS)]


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="search"):
    """The entries of an archive that fit a query best."""

    archive: Literal["knowledge", "memory"]
    query: Annotated[str, msgspec.Meta(max_length=MAX_QUERY)]
    limit: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="tool", tag="write"):
    """What a specialist writes behind a text."""

    specialist: Literal["prose", "code", "arithmetic", "knowledge"]
    text: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_QUERY)]
    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_WRITTEN)] = 200


assert {*KINDS} == {"prose", "code", "arithmetic", "knowledge"}  # what Write allows
Call = Calculate | Search | Write


class ToolError(ValueError):
    """A call that fits no schema, or a tool that is not available; the message says what was expected."""


def schema() -> dict[str, Any]:
    """The JSON Schema of a call."""
    return msgspec.json.schema(Call)


def read_call(text: str | bytes) -> Call:
    """A call from JSON.

    Raises:
        ToolError: it is not JSON, or fits no tool's schema.
    """
    try:
        return msgspec.json.decode(text, type=Call)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise ToolError(f"not a call of calculator, search or write: {error}") from error


def as_json(call: Call) -> dict[str, Any]:
    """A call as a JSON object, with its defaults."""
    return {"tool": call.__struct_config__.tag, **msgspec.structs.asdict(call)}


class Toolbox:
    """Runs calls.

    Args:
        knowledge: the archive of facts.
        memory: of the conversation.
        write: continues a text, given a specialist, the text and the number of bytes. ToolError if it cannot.
    """

    def __init__(self, knowledge: Archive, memory: Memory, write: Callable[[str, str, int], str]):
        self.knowledge, self.memory, self._write = knowledge, memory, write

    def run(self, call: str | bytes) -> dict[str, Any]:
        """The result of a call in JSON, as plain values.

        Raises:
            ToolError: the call fits no schema, or the specialist is not trained.
            CalculatorError: the expression has no exact value.
        """
        known = read_call(call)
        if isinstance(known, Calculate):
            value = calculate(known.expression)
            return {"value": str(value), "fraction": str(value.number), "is_exact": value.is_exact}
        if isinstance(known, Write):
            return {"text": self._write(known.specialist, known.text, known.bytes)}
        if known.archive == "memory":
            found = self.memory.search(known.query, known.limit)
            hits = [
                {"entry": f.number, "source": f.tier, "text": f.text, "coverage": round(f.coverage, 3)} for f in found
            ]
            return {"hits": hits}
        hits = [
            {
                "entry": h.entry,
                "source": h.source,
                "text": h.text,
                "snippet": h.snippet,
                "coverage": round(h.coverage, 3),
                "lacks": h.lacks,
            }
            for h in self.knowledge.search(known.query, known.limit)
        ]
        return {"hits": hits, "having_all_words": self.knowledge.count(known.query)}
