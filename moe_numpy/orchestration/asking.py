"""From a query to an answer, and why: the order of decisions, each with its reason.

    1  something to remember, or a question about what was said      memory
    2  all of it reads as an expression                              calculator
    3  the router is sure, or the query follows up on the last one   prose, code: its specialist writes
                                                                     knowledge: a fact from the archive, cited
                                                                     arithmetic: the calculator could not read it
    4  neither                                                       no answer

An answer is computed, quoted from an entry that is named, or written by a small model and marked as that. What is none
of these is "I do not know".
"""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..files import append_jsonl, read_jsonl
from ..models import generate
from ..training import decode, encode
from .archive import Archive
from .calculator import CalculatorError
from .facts import facts
from .kinds import OUTCOMES
from .memory import Exchange, Memory, is_about_memory, is_to_remember
from .router import Choice, Router
from .specialists import SpecialistError, Specialists
from .spoken_arithmetic import NotArithmetic, expression_of
from .tools import MAX_QUERY, Calculate, Call, Search, Toolbox, ToolError, Write, as_json

LOG = "decisions.jsonl"
UNKNOWN = "I do not know."
_MOST_FITTING = 12  # entries with all words of a query: with more, it is not clear which is meant
_CUES = {  # without one of these, a question about cats is not for the character that is called cat
    "unicodedata": re.compile(
        r"unicode|character|symbol|sign|code ?point|letter|emoji|glyph|u\+|[^\x00-\x7f]", re.IGNORECASE
    ),
    "html.entities": re.compile(r"html|entity|character|symbol|sign|[^\x00-\x7f]|&\w+;", re.IGNORECASE),
}
_MEMORY_COVERAGE = 0.5  # of a query's words, by their idf: the least that an exchange must have to be an answer
_FOLLOW_UP = re.compile(
    r"^\W*(and|now|then|also|but|what about|how about|same|the same|again|once more|make (it|that|the)|"
    r"in (a|an)?\s*\w+\??$|why|since when|tell me more|more|less|shorter|longer|it|that|this|is it|was it|continue|"
    r"go on|try again)\b",
    re.IGNORECASE,
)
_SURE = 0.9  # a router this sure is followed even where the words sound like a follow-up


class Decision(msgspec.Struct, frozen=True):
    """What was decided about a query. ``chosen`` is the tool or specialist, None without an answer."""

    query: str
    probabilities: dict[str, float]
    kind: str | None
    chosen: str | None
    why: list[str]
    call: dict[str, Any] | None
    result: dict[str, Any] | None
    answer: str
    number: int | None = None


class Asker:
    """Router, tools, specialists and memory of a folder.

    Args:
        folder: see ``python -m moe_numpy specialists``; what is missing there, except specialists, is made.
        progress: called while the router is trained.

    Raises:
        ValueError: a file there is damaged; the message names it.
    """

    def __init__(self, folder: Path, progress: Callable[[int], None] = lambda done: None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.router = open_router(folder, progress)
        self.memory = Memory(folder)
        self.toolbox = Toolbox(open_knowledge(folder), self.memory, self._written)
        self.specialists: Specialists | None = None

    def ask(self, query: str) -> Decision:
        """Answer a query, keep it in memory and log the decision.

        Raises:
            OSError: the log or the memory cannot be written.
        """
        query = query[:MAX_QUERY].encode("utf-8", "replace").decode()
        choice = self.router.choose(query)
        decision = self._decided(query, choice)
        if query.strip():
            result = decision.result if decision.chosen == "calculator" else None
            fraction = result["fraction"] if result and result["is_exact"] else None
            number = self.memory.add(query, decision.answer, decision.kind, fraction)
            decision = msgspec.structs.replace(decision, number=number)
        append_jsonl(self.folder / LOG, msgspec.to_builtins(decision))
        return decision

    def _decided(self, query: str, choice: Choice) -> Decision:
        last = self.memory.context[-1] if self.memory.context else None
        if is_to_remember(query):
            reason = "it asks to remember something: kept in memory word for word"
            return _decision(query, choice, None, "memory", [reason], answer="Noted.")
        said = self._from_memory(query, choice) if is_about_memory(query) else None
        if said is not None and said.chosen is not None:
            return said
        number = None if last is None or last.result is None else Fraction(last.result)
        try:
            expression = expression_of(query, number)
        except NotArithmetic as error:
            routed = self._routed(query, choice, last, str(error))
            is_theirs = (
                routed.chosen is None or routed.kind == "knowledge"
            )  # a fact about cats says nothing of "my cat"
            return said if said is not None and is_theirs else routed
        why = [f"all of it reads as the expression {expression}"]
        if number is not None and expression != _without(query):
            why.append(f"it follows up on [{last.number if last else 0}], which gave {number}")
        return self._calculated(query, choice, expression, [*why, f"router: {choice.why}"])

    def _routed(self, query: str, choice: Choice, last: Exchange | None, not_arithmetic: str) -> Decision:
        kind, why = choice.kind, [f"router: {choice.why}"]
        most = max(choice.probabilities.values())
        if (
            _FOLLOW_UP.match(query)
            and last is not None
            and last.kind
            and last.kind != kind
            and (not kind or most < _SURE)
        ):
            kind, why = last.kind, [*why, f"it sounds like a follow-up of [{last.number}], which was {last.kind}"]
        if kind is None:
            answer = f"{UNKNOWN} This is for none of the specialists: {choice.why}."
            return _decision(query, choice, None, None, why, answer=answer)
        if kind == "arithmetic":
            why.append(f"the calculator cannot read it: {not_arithmetic}")
            return _decision(query, choice, kind, None, why, answer=f"{UNKNOWN} {why[-1][0].upper()}{why[-1][1:]}.")
        if kind == "knowledge":
            return self._known(query, choice, why, last.asked if last is not None and _FOLLOW_UP.match(query) else "")
        call = Write(kind, _to_continue(query))  # type: ignore[arg-type]
        try:
            result = self._run(call)
        except ToolError as error:
            return _decision(query, choice, kind, None, why, call, answer=f"{UNKNOWN} {error}")
        return _decision(query, choice, kind, f"{kind} specialist", why, call, result, result["text"])

    def _calculated(self, query: str, choice: Choice, expression: str, why: list[str]) -> Decision:
        call = Calculate(expression)
        try:
            result = self._run(call)
        except (CalculatorError, ToolError) as error:
            why.append(f"calculator: {error}")
            return _decision(query, choice, "arithmetic", None, why, call, answer=f"No result: {error}.")
        return _decision(query, choice, "arithmetic", "calculator", why, call, result, result["value"])

    def _known(self, query: str, choice: Choice, why: list[str], before: str) -> Decision:
        """``before`` is the last query, where this one follows up on it."""
        call = Search("knowledge", query)
        result = self._run(call)
        hits = [hit for hit in result["hits"] if _is_meant(hit["source"], f"{before} {query}")]
        best = hits[0] if hits else None
        fitting = result["having_all_words"]
        if best is None or best["lacks"]:
            lacks = f"; the best, entry {best['entry']}, lacks {', '.join(best['lacks'])}" if best else ""
            why.append(f"no entry of the archive has all words of the query{lacks}")
            return _decision(query, choice, "knowledge", None, why, call, result, UNKNOWN)
        if fitting > _MOST_FITTING:
            why.append(
                f"{fitting} entries of the archive have all words of the query: it says too little to choose one"
            )
            return _decision(query, choice, "knowledge", None, why, call, result, UNKNOWN)
        first = f", the first of {fitting} by BM25" if fitting > 1 else ""
        why.append(f"entry {best['entry']} of the archive has all words of the query{first}")
        answer = f"{best['text']} [{best['source']}, entry {best['entry']}]"
        return _decision(query, choice, "knowledge", "knowledge archive", why, call, result, answer)

    def _from_memory(self, query: str, choice: Choice) -> Decision:
        why = ["it asks about what was said"]
        call = Search("memory", query)
        result = self._run(call)
        best = result["hits"][0] if result["hits"] else None
        if best is None or best["coverage"] < _MEMORY_COVERAGE:
            why.append("no exchange in memory has enough of its words")
            return _decision(query, choice, None, None, why, call, result, UNKNOWN)
        why.append(
            f"exchange {best['entry']}, in the {best['source']}, has "
            f"{100 * best['coverage']:.0f} % of its words by weight"
        )
        return _decision(query, choice, None, "memory", why, call, result, best["text"])

    def _run(self, call: Call) -> dict[str, Any]:
        return self.toolbox.run(json.dumps(as_json(call)))

    def _written(self, kind: str, text: str, size: int) -> str:
        try:
            if self.specialists is None:
                self.specialists = Specialists(self.folder)
            model = self.specialists.model(kind)
        except SpecialistError as error:
            raise ToolError(
                f"{error}; train them with: python -m moe_numpy specialists --folder {self.folder}"
            ) from error
        new = list(generate(model, encode(text), size, rng=np.random.default_rng(0)))
        return decode(np.array(new, np.int64)).rstrip()


def open_router(folder: Path, progress: Callable[[int], None] = lambda done: None) -> Router:
    """The router of a folder; trained, some seconds, where there is none."""
    path = folder / "router.safetensors"
    if not path.exists():
        Router.train(progress).save(path)
    return Router.load(path)


def open_knowledge(folder: Path) -> Archive:
    """The archive of facts of a folder; made where there is none."""
    archive = Archive(folder / "knowledge.sqlite")
    if len(archive) == 0:
        archive.add(facts())
    return archive


def read_log(folder: Path) -> list[Decision]:
    """All decisions of a folder, in order; empty where there are none. ValueError if the file is damaged."""
    path = folder / LOG
    return read_jsonl(path, Decision) if path.exists() else []


def _decision(
    query: str,
    choice: Choice,
    kind: str | None,
    chosen: str | None,
    why: list[str],
    call: Call | None = None,
    result: dict[str, Any] | None = None,
    answer: str = UNKNOWN,
) -> Decision:
    probabilities = {outcome: round(choice.probabilities[outcome], 4) for outcome in OUTCOMES}
    return Decision(query, probabilities, kind, chosen, why, None if call is None else as_json(call), result, answer)


def _without(query: str) -> str | None:
    """The expression of a query by itself; None if it needs what was before."""
    try:
        return expression_of(query)
    except NotArithmetic:
        return None


def _is_meant(source: str, query: str) -> bool:
    return source not in _CUES or _CUES[source].search(query) is not None


def _to_continue(query: str) -> str:
    """What a specialist continues: what stands behind a colon if that is a text, else the query as a heading."""
    _, colon, rest = query.partition(": ")
    return rest if colon and len(rest.split()) >= 4 else f"{query}\n\n"
