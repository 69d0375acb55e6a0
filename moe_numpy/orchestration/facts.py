"""Facts from data that ships with Python, one sentence each: what the archive of knowledge holds."""

import builtins
import calendar
import contextlib
import errno
import html.entities
import http
import inspect
import keyword
import mimetypes
import os
import signal
import sys
import unicodedata
import zoneinfo
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_SCRIPTS = ((0x21, 0x250), (0x370, 0x530), (0x5D0, 0x5EB), (0x2010, 0x2060), (0x20A0, 0x20C1), (0x2100, 0x2300),
            (0x2460, 0x2500), (0x25A0, 0x2700), (0x1F300, 0x1F650))  # fmt: skip
_YEARS = range(1900, 2101)
_CATEGORIES = {
    "Lu": "uppercase letter", "Ll": "lowercase letter", "Lm": "modifier letter", "Lo": "letter without case",
    "Lt": "titlecase letter", "Nd": "decimal digit", "Nl": "letter-like number", "No": "other number",
    "Pc": "connecting punctuation", "Pd": "dash", "Ps": "opening punctuation", "Pe": "closing punctuation",
    "Pi": "opening quote", "Pf": "closing quote", "Po": "other punctuation", "Sm": "mathematical symbol",
    "Sc": "currency symbol", "Sk": "modifier symbol", "So": "other symbol",
}  # fmt: skip


class Fact(NamedTuple):
    """A sentence, and the module or file of Python that says so."""

    text: str
    source: str


def facts() -> list[Fact]:
    """All facts, each once, in a fixed order for one version of Python on one system."""
    kinds = (_characters, _entities, _time_zones, _mime_types, _calendar, _keywords, _builtins, _statuses, _errors,
             _signals, _help_topics)  # fmt: skip
    return list(dict.fromkeys(fact for kind in kinds for fact in kind()))


def _characters() -> Iterator[Fact]:
    for begin, end in _SCRIPTS:
        for code in range(begin, end):
            category = _CATEGORIES.get(unicodedata.category(chr(code)))
            if category:
                name = unicodedata.name(chr(code)).lower()
                text = f"The Unicode character {chr(code)} has code point U+{code:04X} ({code})"
                yield Fact(f"{text}; its name is {name}, {category}.", "unicodedata")


def _entities() -> Iterator[Fact]:
    for name in sorted(html.entities.name2codepoint):
        character = html.entities.html5[f"{name};"]  # HTML 4 had others for two of them
        called = unicodedata.name(character, "").lower()
        yield Fact(f"The HTML entity &{name}; stands for the character {character}, {called}.", "html.entities")


def _time_zones() -> Iterator[Fact]:
    """Offsets are those of 2024. Nothing where there is no time zone database."""
    countries = _countries()
    for name in sorted(zoneinfo.available_timezones()):
        with contextlib.suppress(OSError, ValueError):
            zone = zoneinfo.ZoneInfo(name)
            winter, summer = (datetime(2024, month, 1, tzinfo=zone).utcoffset() for month in (1, 7))
            if winter is None or summer is None or "/" not in name:
                continue
            city = name.rpartition("/")[2].replace("_", " ")
            of = f" in {countries[name]}" if name in countries else ""
            text = f"{city}{of} is in the time zone {name}, {_utc(winter)} in January"
            same = "all year" if winter == summer else f"and {_utc(summer)} in July"
            yield Fact(f"{text} {same}.", "zoneinfo")


def _utc(offset: timedelta) -> str:
    minutes = int(offset.total_seconds()) // 60
    hours, rest = divmod(abs(minutes), 60)
    return f"UTC{'-' if minutes < 0 else '+'}{hours}" + (f":{rest:02}" if rest else "")


def _countries() -> dict[str, str]:
    """The country of each time zone, where the system has the tables; the zone of several countries has the first."""
    for folder in map(Path, zoneinfo.TZPATH):
        with contextlib.suppress(OSError):
            names = dict(_rows(folder / "iso3166.tab"))
            return {row[2]: names[row[0]] for row in _rows(folder / "zone.tab") if row[0] in names}
    return {}


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")


def _mime_types() -> Iterator[Fact]:
    for ending, kind in sorted(mimetypes.MimeTypes(()).types_map[True].items()):  # Python's own, not the system's
        yield Fact(f"Files whose names end in {ending} have the MIME type {kind}.", "mimetypes")


def _calendar() -> Iterator[Fact]:
    for number in range(1, 13):
        days = calendar.monthrange(2023, number)[1]
        leap = ", and 29 in a leap year" if number == 2 else ""
        yield Fact(
            f"{calendar.month_name[number]} is month {number} of the year and has {days} days{leap}.", "calendar"
        )
    for year in _YEARS:
        is_leap = calendar.isleap(year)
        first = calendar.day_name[calendar.weekday(year, 1, 1)]
        text = f"The year {year} is {'a' if is_leap else 'not a'} leap year: it has {366 if is_leap else 365} days"
        yield Fact(f"{text}, and 1 January {year} is a {first}.", "calendar")


def _keywords() -> Iterator[Fact]:
    for word in keyword.kwlist:
        yield Fact(f"The word {word} is a keyword of Python and cannot be a name.", "keyword")
    for name in sorted(sys.stdlib_module_names):
        if not name.startswith("_"):
            yield Fact(f"The module {name} is part of Python's standard library.", "sys")


def _builtins() -> Iterator[Fact]:
    for name, value in sorted(vars(builtins).items()):
        line = (inspect.getdoc(value) or "").partition("\n")[0].strip()
        if line.endswith(".") and not name.startswith("_"):
            what = "exception" if isinstance(value, type) and issubclass(value, BaseException) else "built-in"
            yield Fact(f"Python's {what} {name}: {line}", "builtins")


def _statuses() -> Iterator[Fact]:
    for status in http.HTTPStatus:
        more = f" ({status.description.lower().rstrip('.')})" if status.description else ""
        yield Fact(f"The HTTP status code {status.value} means {status.phrase}{more}.", "http")


def _errors() -> Iterator[Fact]:
    for number, name in sorted(errno.errorcode.items()):
        yield Fact(f"The error {name} has number {number} and means: {os.strerror(number).lower()}.", "errno")


def _signals() -> Iterator[Fact]:
    for each in signal.Signals:
        with contextlib.suppress(ValueError):
            means = (signal.strsignal(each) or "").lower()
            yield Fact(f"The signal {each.name} has number {each.value}: {means}.", "signal")


def _help_topics() -> Iterator[Fact]:
    """The first paragraph of sentences of each topic of ``help()``."""
    with contextlib.suppress(ImportError):
        from pydoc_data.topics import topics

        for name, text in sorted(topics.items()):
            paragraphs = (" ".join(p.split()) for p in text.split("\n\n"))
            first = next((p for p in paragraphs if p.endswith(".") and p[:1].isalpha() and len(p) < 600), None)
            if first:
                yield Fact(f"Python's help on {name}: {first}", f"help({name!r})")
