"""Grades in formats that other programs read."""

import json
from collections.abc import Callable, Mapping, Sequence
from xml.etree import ElementTree

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
    return json.dumps({"score": score, "visibility": "visible", "tests": tests}, indent=1) + "\n"


def junit(results: Sequence[Result]) -> str:
    """JUnit's XML: one suite for each exercise, one test case for each check."""
    root = ElementTree.Element("testsuites")
    for r in results:
        name = f"{r.exercise.label}_{r.exercise.name}"
        failures = sum(not c.passed for c in r.checks)
        suite = ElementTree.SubElement(
            root, "testsuite", name=name, tests=str(len(r.checks)), failures=str(failures), time=f"{r.seconds:.3f}"
        )
        for c in r.checks:
            test = ElementTree.SubElement(suite, "testcase", classname=name, name=c.name)
            if c.problem is not None:
                failure = ElementTree.SubElement(test, "failure", message=_printable(c.problem.message))
                failure.text = _printable(summary(c.problem))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(results: Sequence[Result]) -> str:
    """A table, and what failed below it."""
    lines = ["| exercise | points | of | state |", "|---|---:|---:|---|"]
    for r in results:
        state = "passed" if r.passed else "not yet"
        lines.append(f"| {r.exercise.label} {r.exercise.title} | {r.earned} | {r.exercise.points} | {state} |")
    earned, points = sum(r.earned for r in results), sum(r.exercise.points for r in results)
    lines += [f"| **all** | **{earned}** | **{points}** | |", ""]
    for r in results:
        for c in r.checks:
            if c.problem is not None:
                lines.append(f"- {r.exercise.label}, {c.name}: {_printable(c.problem.message)}")
    return "\n".join(lines) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Result]], str]] = {
    "gradescope": gradescope,
    "junit": junit,
    "markdown": markdown,
}


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
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Without control characters, which XML forbids and a table cannot hold."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
