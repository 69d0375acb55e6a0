"""Proof that the graders grade: for maintainers and continuous integration."""

import inspect
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

from .catalog import find, numbers
from .exercise import Exercise, is_function_class, reference_to
from .grading.grade import (
    GraderError,
    Result,
    grade_here,
    grade_source,
    grade_trusted,
    judge_here,
    outcomes_of,
    prepare,
    processors,
)
from .grading.outcome import Outcome, run_cases
from .mistakes import EditError, Mistake
from .slips import slipped, slips
from .source import run_edited, solution_source
from .stubs import make_stub

_CANARY = 'raise RuntimeError("canary")'
_FEWEST_MISTAKES = 5
_BROKEN = ("NameError", "UnboundLocalError")
SEEDS = 3


@dataclass
class Verdict:
    """What is wrong with one exercise: nothing, if it is sound."""

    label: str
    title: str
    wrong_solutions: int
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def verify(chosen: list[int], seeds: int = SEEDS) -> Iterator[Verdict]:
    """Verify exercises over all cores, in order. A cycle among their needs is reported with the first."""
    cycle = find_cycle({n: find(n).needs for n in numbers()})
    with ProcessPoolExecutor(min(len(chosen) or 1, processors()), mp_context=get_context("spawn")) as pool:
        for i, verdict in enumerate(pool.map(verify_one, chosen, [seeds] * len(chosen))):
            if i == 0 and cycle:
                verdict.problems.append(f"the needs form a cycle: {' → '.join(map(str, cycle))}")
            yield verdict


def verify_one(number: int, seeds: int = SEEDS) -> Verdict:
    """Everything that must hold for one exercise, with the inputs of several seeds."""
    began = time.perf_counter()
    e = find(number)
    verdict = Verdict(e.label, e.title, len(e.mistakes))
    problems = verdict.problems
    try:
        problems += _facts(e)
        problems += _passes(grade_trusted(e, e.target))
        problems += _stub(e)
        slow = [m for m in e.mistakes if _is_slow(e, m)]
        for seed in range(seeds):
            problems += _passes(grade_here(e, lambda: e.solution, seed))
            for mistake in e.mistakes:
                if mistake not in slow:
                    problems += _mistake(e, mistake, seed)
        problems += _false_names(e)
        for slip in slips(run_edited(e.target, solution_source(e.target), "<plain>")):
            passed = grade_here(e, slip.make, 0).passed
            verdict.wrong_solutions += slip.effects() > 0
            if passed and slip.effects():
                problems.append(f"the library's solution passes although it {slip.name}")
    except GraderError as error:
        problems.append(str(error))
    except Exception as error:  # one broken exercise must not hide what is wrong with the others
        problems.append(f"{type(error).__name__}: {error}")
    verdict.seconds = time.perf_counter() - began
    return verdict


def find_cycle(needs: dict[int, tuple[int, ...]]) -> list[int]:
    """A chain of needs that comes back to where it began; empty if there is none."""
    finished: set[int] = set()

    def walk(n: int, path: list[int]) -> list[int]:
        if n in path:
            return [*path[path.index(n) :], n]
        if n in finished:
            return []
        for need in needs.get(n, ()):
            cycle = walk(need, [*path, n])
            if cycle:
                return cycle
        finished.add(n)
        return []

    return next((cycle for n in needs if (cycle := walk(n, []))), [])


def _facts(e: Exercise) -> Iterator[str]:
    """What can be seen without running anything."""
    if len(e.hints) != 3 or len(set(e.hints)) != 3 or not all(h.strip() for h in e.hints):
        yield "three different hints, none empty"
    if len(e.mistakes) < _FEWEST_MISTAKES:
        yield f"{len(e.mistakes)} wrong solutions; at least {_FEWEST_MISTAKES}"
    if len({m.name for m in e.mistakes}) < len(e.mistakes):
        yield "two wrong solutions have one name"
    for m in e.mistakes:
        if not m.why:
            yield f"the wrong solution {m.name!r} has no explanation of its own"
        try:
            if m.whole is not None:
                reference_to(m.whole)
            m.solution  # noqa: B018
        except (EditError, TypeError) as error:
            yield str(error)
    if len({c.name for c in e.checks}) < len(e.checks):
        yield "two checks have one name"
    if any(c.points < 1 or not c.next_step for c in e.checks):
        yield "a check without points or without a next step"
    if e.difficulty not in (1, 2, 3) or not 10 <= e.minutes <= 30 or not e.teaches:
        yield "difficulty 1 to 3, 10 to 30 minutes, and what it teaches"
    unknown = sorted(set(e.needs) - set(numbers()))
    if e.number in e.needs or unknown:
        yield f"needs {unknown or e.number}, which is not there or is itself"
    if is_function_class(e.solution) and not any(c.gradient for c in e.checks):
        yield "no check of the gradient"


def _stub(e: Exercise) -> Iterator[str]:
    """The stub has the library's face, earns nothing, and what runs is the learner's file."""
    stub = make_stub(e)
    names: dict[str, Any] = {}
    exec(compile(stub, e.file_name, "exec"), names)
    for mine, original in _pairs(names[e.attribute], e.solution):
        signatures = {str(inspect.signature(f)) for f in (mine, original)}
        if len(signatures) > 1 or inspect.getdoc(mine) != inspect.getdoc(original):  # a method's is indented
            yield f"the stub of {original.__qualname__} has another signature or docstring than the library"
    result = grade_source(e, stub, e.file_name)
    if result.earned:
        yield f"the untouched stub earns {result.earned} points"
    result = grade_source(e, stub.replace('raise NotImplementedError("your turn")', _CANARY), e.file_name)
    for check in result.checks:
        p = check.problem
        if p is None or "canary" not in p.message or p.line is None:
            yield f"{check.name!r} does not run the learner's file: a canary in it did not sing"


def _pairs(mine: Any, original: Any) -> Iterator[tuple[Any, Any]]:
    if not isinstance(original, type):
        yield mine, original
        return
    for name, member in vars(original).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield getattr(mine, name), member


def _passes(result: Result) -> Iterator[str]:
    for check in result.checks:
        if check.problem:
            yield f"the library fails {check.name!r} with seed {result.seed}: {check.problem.message}"


def _is_slow(e: Exercise, mistake: Mistake) -> bool:
    """Whether all that is wrong with it is that it takes too long."""
    limits = {c.name for c in e.checks if c.time_limit}
    if not limits or not grade_here(e, lambda: mistake.solution, 0).passed:
        return False
    return {c.name for c in grade_trusted(e, mistake.reference).checks if c.problem} == limits


def _mistake(e: Exercise, mistake: Mistake, seed: int) -> Iterator[str]:
    """It must fail, by a named check, and be recognised by its own name."""
    prepared = [p for p in prepare(e, seed) if not p.check.time_limit]
    checks = judge_here(e, prepared, [outcomes_of(mistake, p) for p in prepared], seed)
    if all(c.passed for c in checks):
        yield f"the wrong solution {mistake.name!r} passes with seed {seed}"
        return
    broken = {c.problem.message for c in checks if c.problem and c.problem.message.startswith(_BROKEN)}
    if broken:
        yield f"the wrong solution {mistake.name!r} does not run: {', '.join(sorted(broken))}"
    recognised = {c.problem.recognised for c in checks if c.problem is not None}
    if recognised - {mistake.name, ""} or mistake.name not in recognised:
        yield f"the wrong solution {mistake.name!r} is taken for {sorted(recognised)} with seed {seed}"


def _false_names(e: Exercise) -> Iterator[str]:
    """A slip on top of a mistake, or of the library, is called by the mistake's name, by the slip's, or not at all."""
    prepared = [p for p in prepare(e, 0) if not p.check.time_limit]

    def names(outcomes: list[Sequence[Outcome]]) -> dict[str, set[str]]:
        """Per slip."""
        variants = [[dict(slipped(o)) for o in mine] for mine in outcomes]
        found = {}
        for slip in variants[0][0]:
            judged = judge_here(e, prepared, [[v[slip] for v in of_check] for of_check in variants], 0)
            found[slip] = {c.problem.recognised for c in judged if c.problem} - {""}
        return found

    of_slip = names([run_cases(p.run, e.solution, p.cases) for p in prepared])
    for mistake in e.mistakes:
        for slip, found in names([outcomes_of(mistake, p) for p in prepared]).items():
            if false := found - of_slip[slip] - {mistake.name}:
                yield f"{mistake.name!r} that {slip} is called {', '.join(map(repr, sorted(false)))}"
    for slip, found in of_slip.items():
        if len(found) > 1:
            yield f"the library's solution that {slip} is called {', '.join(map(repr, sorted(found)))}"
