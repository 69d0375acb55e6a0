"""What a child may answer. Whatever else comes was made by a solution, and must neither break nor flood the report."""

from dataclasses import fields
from typing import Any

from .outcome import Outcome
from .wire import BrokenMessageError

_LONGEST = 1000  # characters of a text
_MOST = 10_000  # entries of a list
_VALUES = ("value", "forward")  # judged by what they are; compare.py knows every kind


def checked(answer: Any) -> dict[str, Any]:
    """The answer, with long texts cut. BrokenMessageError if it has another form than an answer."""
    return _record(answer, _ANSWER, "answer")


def _record(given: Any, form: dict[str, Any], what: str) -> dict[str, Any]:
    if type(given) is not dict or not given.keys() <= form.keys():
        raise BrokenMessageError(f"the {what} has another form")
    return {name: form[name](value) for name, value in given.items()}


def _text(given: Any) -> str:
    if type(given) is not str:
        raise BrokenMessageError(f"a {type(given).__name__} in the place of a text")
    return given if len(given) <= _LONGEST else given[: _LONGEST - 1] + "…"


def _number(given: Any) -> Any:
    if type(given) not in (int, float):
        raise BrokenMessageError(f"a {type(given).__name__} in the place of a number")
    return given


def _text_or_number(given: Any) -> Any:
    return _text(given) if type(given) is str else _number(given)


def _list_of(form: Any) -> Any:
    def entries(given: Any) -> list[Any]:
        if type(given) is not list or len(given) > _MOST:
            raise BrokenMessageError("the answer has another form")
        return [form(entry) for entry in given]

    return entries


def _counts(given: Any) -> dict[str, int]:
    if type(given) is not dict or len(given) > _MOST or not all(type(n) is int for n in given.values()):
        raise BrokenMessageError("the answer has another form")
    return given


def _error(given: Any) -> Any:
    return None if given is None else _record(given, _ERROR, "description of an exception")


def _line(given: Any) -> int | None:
    if given is not None and type(given) is not int:
        raise BrokenMessageError(f"a {type(given).__name__} in the place of a line")
    return given


def _outcome(given: Any) -> dict[str, Any]:
    return _record(given, _OUTCOME, "outcome of a case")


_ERROR = {"type": _text, "message": _text, "line": _line, "code": _text, "file": _text}
_OUTCOME = {
    f.name: (lambda given: given) if f.name in _VALUES else _error if f.name == "error" else _list_of(_text_or_number)
    for f in fields(Outcome)
}
_ANSWER = {
    "outcomes": _list_of(_outcome),
    "load_error": _error,
    "not_allowed": _text,
    "tampered": _list_of(_text),
    "layers": _list_of(_text),
    "losses": _list_of(_number),
    "borrowed": _text,
    "calls": _counts,
    "error": _error,
}
