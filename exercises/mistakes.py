"""Plausible wrong solutions: edits of the library's own source, or functions and classes."""

import re
from dataclasses import dataclass, replace
from typing import Any

from .source import run_edited, solution_source

_MISTAKE = re.compile(r"(?![-+] )(.+?): ((?:(?![-+] ).+\n)+)(- .*\n(?:[-+] .*\n)*)")
_CHANGE = re.compile(r"((?:- .*\n)+)((?:\+ .*\n)*)")


class EditError(ValueError):
    """An edit does not fit the library's source (any more)."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A known mistake of one exercise.

    Attributes:
        name: what is wrong, in words: "forgets the sum".
        why: what is wrong about it, then the right idea; what the learner reads.
        replacements: pairs of a text that stands exactly once in the solution's source, and what it becomes.
        whole: a function or class in its place, where no edit says it.
        target: of the exercise.
        reference: how a child process finds it, ``module:name``.
    """

    name: str
    why: str
    replacements: tuple[tuple[str, str], ...] = ()
    whole: Any = None
    target: str = ""
    reference: str = ""

    @property
    def solution(self) -> Any:
        """The wrong function or class; of an edit a new one each time, which remembers nothing.

        Raises:
            EditError: a text does not stand in the source exactly once, or the result does not run.
        """
        if self.whole is not None:
            return self.whole
        source = solution_source(self.target)
        for old, new in self.replacements:
            found = source.count(old)
            if found != 1 or old == new:
                what = "changes nothing" if old == new else f"is there {found} times, not once"
                raise EditError(f"the edit {self.name!r} does not fit {self.target}: {old!r} {what}")
            source = source.replace(old, new)
        try:
            return run_edited(self.target, source, f"<{self.name}>")
        except Exception as error:
            raise EditError(f"the edit {self.name!r} of {self.target} does not run: {error}") from error

    @property
    def code(self) -> str:
        """The wrong piece of code, if it is one line that says something by itself; empty for a whole solution."""
        new = self.replacements[0][1].strip() if self.replacements else ""
        return "" if "\n" in new or new.isidentifier() else new


def edits(text: str) -> tuple[Mistake, ...]:
    """Mistakes written as changes of the solution's source.

    Each is ``name: why``, on as many lines as it takes, and below it what goes (``- ``) and what comes instead
    (``+ ``), once or several times. A changed text stands in the source exactly once; it need not be a whole line.

    Raises:
        EditError: one of them has no name, no explanation or no change.
    """
    text = text.strip("\n") + "\n"
    if rest := _MISTAKE.sub("", text):
        raise EditError(f"expected 'name: why' and below it lines with - and +, got {rest!r}")
    return tuple(
        Mistake(
            name,
            " ".join(why.split()),
            tuple((_unmarked(old), _unmarked(new)) for old, new in _CHANGE.findall(changes)),
        )
        for name, why, changes in _MISTAKE.findall(text)
    )


def _unmarked(lines: str) -> str:
    return "\n".join(line[2:] for line in lines.splitlines())


def collected(given: Any, module: str, target: str) -> Mistake:
    """An entry of a module's MISTAKES, bound to its exercise: an edit, or a function or class with its docstring."""
    if isinstance(given, Mistake):
        return replace(given, target=target, reference=f"{module}:{given.name}")
    why = " ".join((given.__doc__ or "").split())
    if any(given.__doc__ == base.__doc__ for base in getattr(given, "__mro__", ())[1:]):
        why = ""  # inherited
    return Mistake(name_of(given), why, whole=given, target=target, reference=f"{module}:{given.__qualname__}")


def name_of(wrong: Any) -> str:
    """In words: ``KeepsFirstCopy`` and ``keeps_first_copy`` are "keeps first copy"."""
    spaced = "".join(f" {c}" if c.isupper() else c for c in wrong.__name__)
    return spaced.replace("_", " ").strip().lower()
