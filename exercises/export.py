"""Grades in formats that other programs read."""

import json
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

from moe_numpy.commands.output import printable

from .grading.compare import Problem
from .grading.grade import Result


def gradescope(results: Sequence[Result]) -> str:
    """``results.json`` of a Gradescope autograder: one test for each check."""
    tests = [
        {
            "number": f"{r.exercise.label}.{i}",
            "name": f"{r.exercise.label} {r.exercise.title}: {c.name}",
            "score": c.points if c.passed else 0,
            "max_score": c.points,
            "status": "passed" if c.passed else "failed",
            "output": summary(c.problem),
        }
        for r in results
        for i, c in enumerate(r.checks, start=1)
    ]
    score = sum(r.earned for r in results)
    notes = {"output": "\n".join(notes_on(results))} if any(r.note for r in results) else {}
    extra = {r.exercise.label: _on_the_way(r) for r in results}
    grades = {"score": score, "visibility": "visible", **notes, "tests": tests, "extra_data": extra}
    return json.dumps(grades, indent=1) + "\n"


def junit(results: Sequence[Result]) -> str:
    """JUnit's XML: one suite for each exercise, one test case for each check."""
    root = ElementTree.Element("testsuites")
    for r in results:
        name = f"{r.exercise.label}_{r.exercise.name}"
        failures = sum(not c.passed for c in r.checks)
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=str(len(r.checks)), failures=str(failures), time=f"{r.seconds:.3f}"
        )
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in _on_the_way(r).items():
            ElementTree.SubElement(properties, "property", name=key, value=str(value))
        for c in r.checks:
            test = ElementTree.SubElement(suite, "testcase", classname=name, name=c.name)
            if c.problem is not None:
                failure = ElementTree.SubElement(test, "failure", message=_one_line(c.problem.message))
                failure.text = summary(c.problem)
        if r.note:
            ElementTree.SubElement(suite, "system-out").text = r.note
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="us-ascii", xml_declaration=True).decode() + "\n"


def markdown(results: Sequence[Result]) -> str:
    """A table, and what failed below it."""
    lines = ["| exercise | points | of | state | attempts | hints |", "|---|---:|---:|---|---:|---:|"]
    for r in results:
        state = ("passed" if r.passed else "not yet") + (", solution seen" if r.gave_up else "")
        title, points = f"{r.exercise.label} {r.exercise.title}", r.exercise.points
        lines.append(f"| {title} | {r.earned} | {points} | {state} | {r.attempts} | {r.hints} |")
    earned, points = sum(r.earned for r in results), sum(r.exercise.points for r in results)
    lines += [f"| **all** | **{earned}** | **{points}** | | | |", ""]
    for r in results:
        for c in r.checks:
            if c.problem is not None:
                lines.append(f"- {r.exercise.label}, {c.name}: {_one_line(c.problem.message)}")
    lines += [f"- note: {note}" for note in notes_on(results)]
    return "\n".join(lines) + "\n"


def _on_the_way(r: Result) -> dict[str, int | bool]:
    """What the learner's progress says about an exercise."""
    return {"attempts": r.attempts, "hints": r.hints, "gave_up": r.gave_up}


FORMATS: Mapping[str, Callable[[Sequence[Result]], str]] = {
    "gradescope": gradescope,
    "junit": junit,
    "markdown": markdown,
}


def notes_on(results: Sequence[Result]) -> list[str]:
    """What an instructor should know, without influence on the grades."""
    return [f"{r.exercise.label} {r.exercise.title}: {r.note}" for r in results if r.note]


def summary(p: Problem | None) -> str:
    """A problem in a few lines of plain text."""
    if p is None:
        return ""
    lines = [f"{p.where}: {p.message}" if p.where else p.message]
    if p.case:
        lines.append(f"{p.case}, seed {p.seed}")
    if p.line is not None:
        lines.append(f"line {p.line}: {p.code}")
    if p.yours or p.expected:
        at = f" at {list(p.index)}" if p.index else ""
        lines.append(f"yours {p.yours}, expected {p.expected}{at}")
    if p.recognised:
        lines.append(f"equal to a known mistake, {p.recognised}: {p.explanation}")
    if p.next_step:
        lines.append(f"next: {p.next_step}")
    return printable("\n".join(lines))


def _one_line(text: str) -> str:
    """Without control characters, which XML forbids, and without the line breaks that end an entry of a list."""
    return " ".join(printable(text).split())
