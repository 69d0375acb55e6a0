"""The lists that prompts and features are made from, in ``templates/``: one list a line, a name before its entries."""

from functools import cache
from importlib import resources


@cache
def lines_of(file: str) -> list[str]:
    """The lines of a file of ``templates/``."""
    return (resources.files(__package__) / "templates" / file).read_text("utf-8").splitlines()


@cache
def lists_of(file: str) -> dict[str, list[str]]:
    """The lists of a file by name; entries have ``" | "`` between them."""
    pairs = (line.split(": ", 1) for line in lines_of(file))
    return {name: entries.split(" | ") for name, entries in pairs}


@cache
def lexicon() -> dict[str, list[str]]:
    """Words by the area that they belong to, such as languages, forms of writing, or countries."""
    return {area: words.split() for area, words in (line.split(": ", 1) for line in lines_of("lexicon.txt"))}


@cache
def common_words(name: str) -> frozenset[str]:
    """A list of ``words.txt`` as a set: ``"common"`` English words, or those ``"of_questions"``."""
    return frozenset(lists_of("words.txt")[name])
