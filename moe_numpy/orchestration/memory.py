"""A conversation in three tiers: context, summary, archive, as an operating system pages memory.

    context    the last exchanges, word for word, of at most ``CONTEXT_BYTES``
    summary    a line for each exchange that no longer fits, its number and first words; at most ``SUMMARY_BYTES``
    archive    every exchange that no longer fits, word for word, found by its words

Nothing is invented: a summary quotes, and an answer from memory is an entry of the archive or of the context, with its
number.

Source: Packer et al. 2023, MemGPT: Towards LLMs as Operating Systems (arXiv 2310.08560), section 2. There a language
model writes the summary; here it is cut from what was said.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..files import read_json, with_checksum, write_json_atomically
from .archive import Archive

CONTEXT_BYTES = 2000
SUMMARY_BYTES = 1500
_LINE_CHARACTERS = 70
_MOST = 20_000  # characters of a query, and of an answer
_ABOUT_US = re.compile(
    r"\b(did (i|we|you) (just )?(say|tell|ask|mention|talk|answer|calculate|compute|discuss|want|ask for)|"
    r"(have|had) (i|we|you) (said|told|asked|mentioned|talked|discussed)|"
    r"do you (still )?(remember|recall)|you remember|"
    r"remind me|(i|we|you) (said|told you|told me|asked|mentioned|talked about|discussed)|our (last )?conversation|"
    r"(what|who|where|when|which|how \w+) (is|are|was|were) (my|our)\b|my (last|first|previous) (question|message))"
)
_TOLD = re.compile(
    r"^\W*(please )?(remember|note|keep in mind|don't forget|do not forget)( that|:|,)?\s+\S", re.IGNORECASE
)


class Exchange(msgspec.Struct, frozen=True):
    """What was asked and answered; ``number`` counts from 1.

    ``kind`` is the kind that the query was of, and ``result`` the number that the calculator found, as a fraction.
    """

    number: int
    asked: str
    answered: str
    kind: str | None = None
    result: str | None = None

    @property
    def text(self) -> str:
        """As it is archived."""
        return f"[{self.number}] asked: {self.asked}\nanswered: {self.answered}"

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text.encode("utf-8", "replace"))


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    context: list[Exchange]
    summary: list[str]
    said: int
    checksum: int | None = None


@dataclass(frozen=True)
class Found:
    """An answer from memory: the exchange, its number, and the tier that it is in."""

    number: int
    tier: str
    text: str
    coverage: float


def is_about_memory(query: str) -> bool:
    """Whether a query asks for what was said, such as "what did I tell you about my dog?"."""
    return _ABOUT_US.search(query.lower().replace("’", "'").replace("'s ", " is ")) is not None


def is_to_remember(query: str) -> bool:
    """Whether a query only says something to keep, such as "remember that my dog is called Rex"."""
    return _TOLD.match(query) is not None


class Memory:
    """The memory in a folder; made where there is none.

    Args:
        folder: holds ``memory.json`` and ``memory.sqlite``.
        context_bytes: the most of the context.

    Raises:
        ValueError: a file is damaged; ArchiveError if that is the archive.
    """

    def __init__(self, folder: Path, context_bytes: int = CONTEXT_BYTES):
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self.context_bytes = folder / "memory.json", context_bytes
        state = read_json(self._path, _State) if self._path.exists() else _State([], [], 0)
        self.context, self.summary, self._said = list(state.context), list(state.summary), state.said
        self.archive = Archive(folder / "memory.sqlite")

    def add(self, asked: str, answered: str, kind: str | None = None, result: str | None = None) -> int:
        """Keep an exchange and return its number. What no longer fits into the context goes to the archive.

        Raises:
            OSError: the disk failed or is full.
        """
        self._said += 1
        self.context.append(Exchange(self._said, asked[:_MOST], answered[:_MOST], kind, result))
        while self.context and sum(exchange.size for exchange in self.context) > self.context_bytes:
            self._push_out()
        self._write()
        return self._said

    def new_conversation(self) -> None:
        """Push all of the context out: the next query is no follow-up. Nothing is lost."""
        while self.context:
            self._push_out()
        self._write()

    def search(self, query: str, limit: int = 5) -> list[Found]:
        """The exchanges of context and archive that have most of a query's words; of equal ones the latest first.

        Questions about what was said are left out: they would find themselves.
        """
        recent = Archive(":memory:")
        recent.add((exchange.text, str(exchange.number)) for exchange in self.context)
        tiers = (("context", recent.search(query, 4 * limit)), ("archive", self.archive.search(query, 4 * limit)))
        found = [(tier, hit) for tier, hits in tiers for hit in hits if not is_about_memory(_asked(hit.text))]
        recent.close()
        found.sort(key=lambda each: (-each[1].coverage, -int(each[1].source)))  # BM25 does not compare across archives
        return [Found(int(hit.source), tier, hit.text, hit.coverage) for tier, hit in found[:limit]]

    def _push_out(self) -> None:
        """The archive first: a crash between the two keeps an exchange twice rather than never."""
        exchange = self.context.pop(0)
        self.archive.add([(exchange.text, str(exchange.number))])
        self.summary.append(f"[{exchange.number}] {_first_words(exchange.asked)} -> {_first_words(exchange.answered)}")
        while sum(len(line.encode("utf-8", "replace")) for line in self.summary) > SUMMARY_BYTES:
            self.summary.pop(0)

    def _write(self) -> None:
        state = {
            "context": [msgspec.to_builtins(each) for each in self.context],
            "summary": self.summary,
            "said": self._said,
        }
        write_json_atomically(self._path, with_checksum(state))


def _asked(text: str) -> str:
    return text.partition("\nanswered: ")[0].partition("asked: ")[2]


def _first_words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE_CHARACTERS else f"{line[: _LINE_CHARACTERS - 3].rsplit(' ', 1)[0]}..."
