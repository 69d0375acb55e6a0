"""Grade one exercise: run its checks in child processes, judge what comes back, name known mistakes."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import drivers
from ..exercise import Case, Check, Exercise, is_function_class, reference_to
from ..library_use import own_answer_in
from ..mistakes import EditError, Mistake
from ..submission import SubmissionError, read_source
from .borrowing import answer_of
from .compare import Problem, agrees_with_numeric, describe_case, disagreement, evidence, judge, same_outcome, show
from .ended import Ended
from .in_process import NO_PROCESSES, InProcess
from .outcome import Outcome, run_case, run_cases
from .process import Child, Solution

_SHORT_ROW = 16
_GLANCE = 0.1  # seconds; Windows lets Ctrl-C through only between two waits
_TELLING = 4  # evidence that is enough to name a mistake by a single check
_AGAIN = "run the check again; if it happens again, look for code outside the function"


class GraderError(Exception):
    """The exercise itself is broken: its two oracles disagree. Never the learner's fault."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The cases of one check and what is expected of them; never leaves this process."""

    check: Check
    run: Any  # None for gradients
    cases: list[Case]
    expected: list[Outcome]
    numeric: list[Any]


@dataclass(frozen=True, eq=False)
class Failure:
    """One case of a check that does not come out right: which one, what the solution gave, what is wrong with it."""

    prepared: Prepared
    position: int
    yours: Outcome
    problem: Problem

    @property
    def case(self) -> Case:
        """The call."""
        return self.prepared.cases[self.position]

    @property
    def expected(self) -> Outcome:
        """What the library gave."""
        return self.prepared.expected[self.position]


@dataclass
class CheckResult:
    """What became of one check.

    Attributes:
        name, points: the check's.
        problem: why it failed, None if it passed.
        failures: the cases that failed, in order; none if the solution gave no answer at all.
        warnings, output: what it warned of and printed.
        answered: whether there was an answer for each case.
    """

    name: str
    points: int
    problem: Problem | None
    warnings: list[str] = field(default_factory=list)
    output: str = ""
    answered: bool = False
    failures: list[Failure] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether its points are earned."""
        return self.problem is None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        problem = None if self.problem is None else self.problem.to_json()
        return {
            "name": self.name,
            "passed": self.passed,
            "points": self.points,
            "problem": problem,
            "warnings": self.warnings,
            "output": self.output,
        }


@dataclass
class Result:
    """What became of one exercise.

    Attributes:
        exercise, checks, seed, seconds, file: what was graded, and how.
        note: what an instructor should know; costs nothing.
        attempts, hints, gave_up: from the learner's progress, where there is one.
    """

    exercise: Exercise
    checks: list[CheckResult]
    seed: int
    seconds: float
    file: str = ""
    note: str = ""
    attempts: int = 0
    hints: int = 0
    gave_up: bool = False

    @property
    def earned(self) -> int:
        """Points of the checks that passed."""
        return sum(check.points for check in self.checks if check.passed)

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def smallest_failure(self) -> Failure | None:
        """Of all cases that failed the one with the fewest entries, but with two where there is such a one."""
        failures = [failure for check in self.checks for failure in check.failures]
        return min(failures, key=lambda f: (f.case.entries < 2, f.case.entries), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "exercise": self.exercise.label,
            "name": self.exercise.name,
            "passed": self.passed,
            "earned": self.earned,
            "points": self.exercise.points,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "file": self.file,
            "note": self.note,
            "attempts": self.attempts,
            "hints": self.hints,
            "gave_up": self.gave_up,
            "checks": [check.to_json() for check in self.checks],
        }


def grade_file(exercise: Exercise, path: Path, *, seed: int = 0) -> Result:
    """Grade a learner's file.

    Raises:
        FileNotFoundError: there is none.
        GraderError: the exercise is broken.
    """
    try:
        return grade_source(exercise, read_source(path), str(path), seed=seed)
    except SubmissionError as error:
        return unreadable(exercise, str(error), str(path), seed=seed)


def grade_source(exercise: Exercise, source: str, file: str, *, seed: int = 0) -> Result:
    """Grade a learner's source; ``file`` is its name in messages. The checks are spread over the processors."""
    result = _grade(exercise, Solution(exercise.attribute, source, file), seed, processors())
    if used := own_answer_in(exercise, source):
        result.note = f"calls the library's own answer: {used}"
    return result


def unreadable(exercise: Exercise, reason: str, file: str, *, seed: int = 0) -> Result:
    """The grade of what is no readable file: every check fails for this reason."""
    checks = [
        CheckResult(check.name, check.points, Problem("load", reason, next_step="hand in a file of Python source"))
        for check in exercise.checks
    ]
    return Result(exercise, checks, seed, 0.0, file)


def without_answer(exercise: Exercise, source: str, file: str, p: Prepared) -> int:
    """The first case of a check that ends the solution's process, or takes too long; 0 if none does so by itself."""
    run = None if p.run is None else reference_to(p.run)
    with _asked(exercise, Solution(exercise.attribute, source, file), threading.Event()) as child:
        for i, case in enumerate(p.cases):
            if isinstance(child.ask({"run": run, "cases": [case], "timed": True}, p.check.time_limit), Ended):
                return i
    return 0


def grade_trusted(exercise: Exercise, reference: str, *, seed: int = 0) -> Result:
    """Grade code of the project itself: the exercise's target, or the reference of a mistake. One process for all."""
    return _grade(exercise, Solution(exercise.attribute, reference=reference), seed, 1)


def prepare(exercise: Exercise, seed: int) -> list[Prepared]:
    """Draw the cases of every check and ask the oracles.

    Raises:
        GraderError: the library, the specification and finite differences do not agree.
    """
    return list(_prepare(exercise, seed))


@lru_cache(maxsize=4)
def _prepare(exercise: Exercise, seed: int) -> tuple[Prepared, ...]:
    return tuple(_prepare_check(exercise, check, seed, i) for i, check in enumerate(exercise.checks))


def _prepare_check(exercise: Exercise, check: Check, seed: int, position: int) -> Prepared:
    rng = np.random.default_rng([seed, exercise.number, position])
    library, specification = exercise.solution, exercise.specification
    cases = list(check.cases(rng))
    run: Any = check.run or (drivers.forward if is_function_class(library) else drivers.call)
    numeric: list[Any] = [None] * len(cases)
    if check.gradient:
        run = None
        values = run_cases(drivers.forward, library, cases)
        cases = [drivers.with_cotangents(c, v.value, rng) for c, v in zip(cases, values, strict=True)]
        if check.finite_differences:
            numeric = [drivers.numeric_gradient(specification, drivers.prepared(c)) for c in cases]
    expected = run_cases(run, library, cases)
    for c, outcome, slopes in zip(cases, expected, numeric, strict=True):
        where = f"exercise {exercise.label}, {check.name}, {describe_case(c, exercise.attribute)}, seed {seed}"
        if check.gradient:
            if outcome.error is not None or (slopes is not None and not agrees_with_numeric(outcome.value, slopes)):
                raise GraderError(f"{where}: the library's gradient is not that of the specification: {outcome.error}")
        elif check.second_oracle:
            second = run_case(run, specification, c)
            differs = disagreement(outcome.value, second.value, 1e-6 if _is_double(c) else 1e-3)
            if (outcome.error is None) != (second.error is None) or differs:
                raise GraderError(f"{where}: library against specification: {differs or second.error or outcome.error}")
    return Prepared(check, run, cases, expected, numeric)


def _grade(exercise: Exercise, solution: Solution, seed: int, processes: int) -> Result:
    began = time.perf_counter()
    being_prepared: Future[list[Prepared]] = Future()
    if NO_PROCESSES:
        being_prepared.set_result(prepare(exercise, seed))
        answers = _run_batch(exercise, solution, being_prepared, range(len(exercise.checks)), threading.Event())
    else:
        answers = _answers_of_children(exercise, solution, seed, processes, being_prepared)
    prepared = being_prepared.result()
    results = []
    outcomes: dict[int, list[Outcome]] = {}
    for i, p in enumerate(prepared):
        answer, output = answers[i]
        result = _judge_answer(exercise, p, answer, seed)
        result.output = output
        results.append(result)
        if result.answered:
            outcomes[i] = [Outcome(**o) for o in answer["outcomes"]]
    _recognise(exercise, prepared, results, outcomes)
    borrowed = next((seen for answer, _ in answers.values() if (seen := _borrowed(answer))), "")
    return Result(exercise, results, seed, time.perf_counter() - began, solution.file, borrowed)


def _answers_of_children(
    exercise: Exercise, solution: Solution, seed: int, processes: int, being_prepared: Future[list[Prepared]]
) -> dict[int, tuple[Any, str]]:
    """The answer to each check, and what was printed; the checks are prepared while the children start."""
    order = range(len(exercise.checks))
    batches = [order[i::processes] for i in range(min(processes, len(order)))]
    answers: dict[int, tuple[Any, str]] = {}
    stop = threading.Event()
    _begin_to_prepare(exercise, seed, being_prepared)
    with ThreadPoolExecutor(max_workers=len(batches)) as pool:
        try:
            running = [pool.submit(_run_batch, exercise, solution, being_prepared, b, stop) for b in batches]
            while wait(running, _GLANCE).not_done:
                pass
        except BaseException:  # Ctrl-C: kill the children now, whatever their time limits
            stop.set()
            with contextlib.suppress(InvalidStateError):
                being_prepared.set_exception(CancelledError())
            raise
        for done in running:
            answers |= done.result()
    return answers


def _begin_to_prepare(exercise: Exercise, seed: int, future: Future[list[Prepared]]) -> None:
    """The result of :func:`prepare`, to come; who stops waiting for it leaves it to its thread."""

    def run() -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled
            try:
                future.set_result(prepare(exercise, seed))
            except Exception as error:
                future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()


def grade_here(exercise: Exercise, solution: Callable[[], Any], seed: int) -> Result:
    """Grade trusted code in this process, without the checks of speed; ``solution`` makes it anew for each check."""
    began = time.perf_counter()
    prepared = [p for p in prepare(exercise, seed) if not p.check.time_limit]
    checks = judge_here(exercise, prepared, [run_cases(p.run, solution(), p.cases) for p in prepared], seed)
    return Result(exercise, checks, seed, time.perf_counter() - began)


def judge_here(
    exercise: Exercise, prepared: Sequence[Prepared], outcomes: Sequence[Sequence[Outcome]], seed: int
) -> list[CheckResult]:
    """What the outcomes of each check are worth, with the names of known mistakes."""
    results = [_judged(exercise, p, {}, mine, seed) for p, mine in zip(prepared, outcomes, strict=True)]
    _recognise(exercise, prepared, results, dict(enumerate(outcomes)))
    return results


def _run_batch(
    exercise: Exercise,
    solution: Solution,
    being_prepared: Future[list[Prepared]],
    batch: Sequence[int],
    stop: threading.Event,
) -> dict[int, tuple[Any, str]]:
    """The answer to each check, and what was printed.

    A child serves the next check too, with the solution loaded anew, unless it ended or did what it should not. If the
    next one ends from loading alone, so would all others.
    """
    done: dict[int, tuple[Any, str]] = {}
    while len(done) < len(batch) and not stop.is_set():
        answers: dict[int, Any] = {}
        with _asked(exercise, solution, stop) as child:
            prepared = being_prepared.result()
            loaded = child.ask({"run": None, "cases": [], "timed": False}) if done else None
            if isinstance(loaded, Ended):
                answers = dict.fromkeys(batch[len(done) :], loaded)
            for i in batch[len(done) + len(answers) :]:
                run = None if prepared[i].run is None else reference_to(prepared[i].run)
                request = {"run": run, "cases": prepared[i].cases, "timed": prepared[i].check.time_limit > 0}
                answers[i] = child.ask(request, prepared[i].check.time_limit)
                if isinstance(answers[i], Ended) or answers[i].get("tampered") or answers[i].get("not_allowed"):
                    break
        printed = child.output.decode(errors="replace")
        done |= {i: (answer, printed) for i, answer in answers.items()}
    return done


def _asked(exercise: Exercise, solution: Solution, stop: threading.Event) -> Child | InProcess:
    """Who runs the solution."""
    own = [] if solution.reference else answer_of(exercise)
    setup = vars(solution) | {"preload": list(exercise.preload), "answer": own}
    return InProcess(setup) if NO_PROCESSES else Child("check", setup, exercise.time_limit, stop=stop)


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _judge_answer(exercise: Exercise, p: Prepared, answer: Any, seed: int) -> CheckResult:
    if isinstance(answer, Ended):
        step = p.check.next_step if p.check.time_limit else "look for an endless loop, os._exit or endless output"
        return CheckResult(p.check.name, p.check.points, Problem("process", answer.reason, next_step=step))
    try:
        return _judged(exercise, p, answer, [Outcome(**o) for o in answer.get("outcomes", [])], seed)
    except (TypeError, KeyError, AttributeError, ValueError) as error:  # a forged answer
        problem = Problem("process", f"what came back is no answer: {error}", next_step=_AGAIN)
        return CheckResult(p.check.name, p.check.points, problem)


def _borrowed(answer: Any) -> str:
    """What was seen of the library's own answer; nothing where there is no answer, or a forged one."""
    return "" if isinstance(answer, Ended) else str(answer.get("borrowed", ""))


def _judged(
    exercise: Exercise, p: Prepared, answer: dict[str, Any], outcomes: Sequence[Outcome], seed: int
) -> CheckResult:
    problem, failures = _no_answer(p, answer, outcomes), []
    if problem is None:
        failures = list(_failures(exercise, p, outcomes, seed))
        problem = failures[0].problem if failures else None
    result = CheckResult(p.check.name, p.check.points, problem, failures=failures)
    result.answered = len(outcomes) == len(p.cases)
    result.warnings = list(dict.fromkeys(w for o in outcomes for w in o.warnings))[:3]
    return result


def _no_answer(p: Prepared, answer: Any, outcomes: Sequence[Outcome]) -> Problem | None:
    """Why there is nothing to compare, if that is so."""
    if "load_error" in answer:
        e = answer["load_error"]
        text = f"the file does not run: {e['type']}: {e['message']}"
        return Problem("load", text, line=e["line"], code=e["code"], next_step="make the file importable first")
    if answer.get("not_allowed"):
        return Problem("not allowed", str(answer["not_allowed"]), next_step="a solution needs arrays only")
    if answer.get("tampered"):
        names = ", ".join(answer["tampered"][:3])
        return Problem("tampered", f"the code replaced {names}", next_step="leave other modules as they are")
    if len(outcomes) != len(p.cases):
        return Problem("process", f"{len(outcomes)} answers for {len(p.cases)} calls", next_step=_AGAIN)
    return None


def _failures(exercise: Exercise, p: Prepared, outcomes: Sequence[Outcome], seed: int) -> Iterator[Failure]:
    """The cases that do not come out right, in order."""
    for i, (case, yours, expected, numeric) in enumerate(zip(p.cases, outcomes, p.expected, p.numeric, strict=True)):
        problem = judge(yours, expected, numeric, gradient=p.check.gradient)
        if problem is not None:
            places = drivers.differentiable(case)
            if problem.where.startswith("gradient"):
                problem.where = f"gradient of argument {places[int(problem.where.rpartition(' ')[2])]}"
            problem.case, problem.seed = describe_case(case, exercise.attribute), seed
            problem.next_step = p.check.next_step
            problem.arrays |= _input_row(case, problem)
            yield Failure(p, i, yours, problem)


def _input_row(case: Case, problem: Problem) -> dict[str, str]:
    """The row of the first argument that the worst entry belongs to, where rows of both correspond and are short."""
    x = case.args[0] if case.args else None
    if not problem.index or not isinstance(x, np.ndarray) or x.ndim != 2 or problem.rows != len(x):
        return {}
    row = x[problem.index[0]]
    return {f"input[{problem.index[0]}]": show(row)} if row.size <= _SHORT_ROW else {}


def _recognise(
    exercise: Exercise,
    prepared: Sequence[Prepared],
    results: list[CheckResult],
    outcomes: Mapping[int, Sequence[Outcome]],
) -> None:
    """Name the known mistake of which a failed check shows the same results.

    The mistake must fail that check itself, in the same way in every case, and no check that the solution passes. Where
    the wrong results tell too little, as one boolean or an exception does, it must agree in all other checks too. Of
    several, the one that agrees in most checks is named; if two do, none is.
    """
    if all(result.passed for result in results):
        return
    known = [i for i in outcomes if not prepared[i].check.time_limit]
    passed = [i for i in known if results[i].passed]
    agrees = {
        m: {i for i in known if _same(tuple(outcomes[i]), outcomes_of(m, prepared[i]))}
        for m in exercise.mistakes
        if not any(_fails(exercise, prepared[i], m) for i in passed)
    }
    for i in known:
        problem, fitting = results[i].problem, [m for m in agrees if i in agrees[m]]
        if problem is None or not fitting:
            continue
        told = sum(evidence(o, e) for o, e in zip(outcomes[i], prepared[i].expected, strict=True))
        fitting = [m for m in fitting if told >= _TELLING or len(agrees[m]) == len(known)]
        if not fitting:
            continue
        most = max(len(agrees[m]) for m in fitting)
        best, *others = [m for m in fitting if len(agrees[m]) == most]
        if not others:
            problem.recognised, problem.explanation, problem.mistake = best.name, best.why, best.code


@lru_cache(maxsize=2048)
def outcomes_of(mistake: Mistake, p: Prepared) -> tuple[Outcome, ...]:
    """What a known mistake gives in a check; nothing if its edit does not fit, which ``verify`` reports."""
    try:
        return tuple(run_cases(p.run, mistake.solution, p.cases))
    except EditError:
        return ()


@lru_cache(maxsize=2**14)
def _fails(exercise: Exercise, p: Prepared, mistake: Mistake) -> bool:
    """Whether a known mistake fails a check."""
    outcomes = outcomes_of(mistake, p)
    return _no_answer(p, {}, outcomes) is not None or next(_failures(exercise, p, outcomes, 0), None) is not None


@lru_cache(maxsize=2**14)
def _same(mine: tuple[Outcome, ...], theirs: tuple[Outcome, ...]) -> bool:
    return len(mine) == len(theirs) and all(map(same_outcome, mine, theirs))


def _is_double(case: Case) -> bool:
    return not any(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in case.args)
