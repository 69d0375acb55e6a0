"""Texts that are kept word for word and found by their words: SQLite's FTS5, ranked by BM25.

    bm25(q, D) = Σ_w idf(w) · f(w, D) (k₁ + 1) / (f(w, D) + k₁ (1 - b + b |D| / mean |D|)),  k₁ = 1.2, b = 0.75

Words are compared by their stems (Porter 1980), without accents and case.

Source: Robertson, Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond, section
3.4; sqlite.org/fts5.html.
"""

import math
import re
import sqlite3
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .word_lists import common_words

_WORD = re.compile(r"[^\W_]+")
_SNIPPET_WORDS = 24
_MORE = 20  # entries that BM25 finds beyond those that are wanted, before they are ordered by coverage
_OPEN, _CLOSE = "[", "]"


class ArchiveError(ValueError):
    """A file that is no archive of this version, or damaged; the message says which."""


@dataclass(frozen=True)
class Hit:
    """An entry that was found.

    Attributes:
        entry: its number, to cite.
        source: where its text is from.
        text: all of it.
        snippet: the part around the words that were looked for, which are in brackets.
        score: BM25, higher is better.
        coverage: the share of the query's words that it has, rare words counting more: by their idf.
        lacks: the words of the query that it does not have.
    """

    entry: int
    source: str
    text: str
    snippet: str
    score: float
    coverage: float
    lacks: tuple[str, ...] = ()


class Archive:
    """An archive in a file, or in memory for the path ``:memory:``.

    Raises:
        ArchiveError: the file is something else, or damaged.
    """

    def __init__(self, path: Path | str):
        self.path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute(
                "CREATE VIRTUAL TABLE IF NOT EXISTS entries "
                "USING fts5(text, source UNINDEXED, tokenize='porter unicode61')"
            )
            self._size: int = self._database.execute("SELECT count(*) FROM entries").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise ArchiveError(f"{path} is no archive, or damaged: {error}") from error

    def __len__(self) -> int:
        return self._size

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(self, texts: Iterable[tuple[str, str]]) -> list[int]:
        """Keep pairs of a text and its source, all or none; return the numbers of their entries."""
        found = []
        self._database.execute("BEGIN")
        try:
            for text, source in texts:
                clean = text.encode("utf-8", "replace").decode()
                found.append(
                    self._database.execute("INSERT INTO entries(text, source) VALUES (?, ?)", (clean, source)).lastrowid
                )
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        self._size += len(found)
        return [number for number in found if number is not None]

    def entry(self, number: int) -> str:
        """The text of an entry, word for word. KeyError if there is none."""
        row = self._database.execute("SELECT text FROM entries WHERE rowid = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(f"the archive has no entry {number}")
        return str(row[0])

    def search(self, query: str, limit: int = 5) -> list[Hit]:
        """The entries that have most of a query's words, by coverage and then by BM25; common words do not count.

        Raises:
            ValueError: ``limit`` is below 1.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        words = content_words(query)
        if not words:
            return []
        matching = " OR ".join(f'"{word}"' for word in words)  # quoted: no word is an operator
        rows = self._database.execute(
            "SELECT rowid, source, text, snippet(entries, 0, ?, ?, '...', ?), bm25(entries) FROM entries "
            "WHERE entries MATCH ? ORDER BY bm25(entries), rowid LIMIT ?",
            (_OPEN, _CLOSE, _SNIPPET_WORDS, matching, limit + _MORE),
        ).fetchall()
        idf = {word: self._idf(word) for word in words}
        hits = []
        for number, source, text, snippet, score in rows:
            own = set(map(_singular, _words(text)))
            lacks = tuple(word for word in words if _singular(word) not in own)
            covered = 1 - sum(idf[word] for word in lacks) / sum(idf.values())
            hits.append(Hit(number, source, text, snippet, -score, covered, lacks))
        hits.sort(key=lambda hit: (-round(hit.coverage, 6), -hit.score))
        return hits[:limit]

    def count(self, query: str) -> int:
        """How many entries have all words of a query."""
        words = content_words(query)
        return self._count(" AND ".join(f'"{word}"' for word in words)) if words else 0

    def _idf(self, word: str) -> float:
        count = self._count(f'"{word}"')
        return math.log(1 + (self._size - count + 0.5) / (count + 0.5))

    def _count(self, matching: str) -> int:
        found = self._database.execute("SELECT count(*) FROM entries WHERE entries MATCH ?", (matching,)).fetchone()
        return int(found[0])


def content_words(query: str) -> list[str]:
    """The words of a query that say what it is about, each once; all of them if it has only common ones."""
    words = list(dict.fromkeys(_words(query[:2000])))
    return [word for word in words if word not in common_words("of_questions")] or words


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFD", text.lower().replace("’s", "").replace("'s", ""))
    return _WORD.findall("".join(c for c in plain if not unicodedata.combining(c)))


def _singular(word: str) -> str:
    """Without the ending of a plural or a third person: stems as FTS5 has them take France for a franc."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending) and len(word) > len(ending) + 2 and not word.endswith("ss"):
            return word.removesuffix(ending) + instead
    return word
