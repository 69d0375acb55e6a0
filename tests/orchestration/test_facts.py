import calendar
import html
import re

from moe_numpy.orchestration.facts import facts
from moe_numpy.orchestration.texts import _arithmetic


def texts(source):
    return [fact.text for fact in facts() if fact.source == source]


def test_facts_are_many_and_each_once():
    found = facts()
    assert len(found) > 4000
    assert len(set(found)) == len(found)
    assert all("\n" not in fact.text and fact.text.endswith((".", ":", ")")) for fact in found)


def test_some_facts_against_another_source():
    for text in texts("html.entities"):
        entity, character = re.search(r"&\w+;", text)[0], text.partition("the character ")[2][0]
        assert html.unescape(entity) == character
    leap = {int(text.split()[2]) for text in texts("calendar") if "is a leap year" in text}
    assert leap == {year for year in range(1900, 2101) if calendar.isleap(year)}


def test_arithmetic_text_is_right():
    lines = _arithmetic().decode().splitlines()
    assert len(lines) == len(set(lines))
    checked = 0
    for line in lines[:3000]:
        sums = re.fullmatch(r"(\d+) ([-+*]) (\d+) = (\d+)", line)
        if sums:
            a, sign, b, c = sums.groups()
            assert int(c) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            checked += 1
    assert checked > 500
