"""``python -m benchmarks.orchestration``: how queries and texts reach the right specialist, and what that is worth.

Needs trained specialists (``python -m moe_numpy specialists``). Models of equal size are trained on all four
kinds, once, in FOLDER/single-STEPS: with the steps of one specialist and its seed, and with those of all together.
"""

import time
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from moe_numpy.commands.machine import processor
from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, print_title, refusals
from moe_numpy.commands.run_training import existing_run, new_run, run_training
from moe_numpy.commands.usage import Command
from moe_numpy.files import write_json_atomically
from moe_numpy.models.text import ByteTokenizer
from moe_numpy.orchestration import prompts as templates
from moe_numpy.orchestration.archive import Archive
from moe_numpy.orchestration.asking import open_router
from moe_numpy.orchestration.calculator import calculate
from moe_numpy.orchestration.calibration import expected_calibration_error
from moe_numpy.orchestration.kinds import KINDS, OUTCOMES
from moe_numpy.orchestration.mixing import mixed, posterior
from moe_numpy.orchestration.number_words import in_words
from moe_numpy.orchestration.router import Router, labels
from moe_numpy.orchestration.specialists import (
    MODEL,
    SEED,
    SEED_STEPS,
    SPECIALIST_STEPS,
    Specialists,
    corpus_of,
    losses,
    text_file,
)
from moe_numpy.orchestration.splits import TEST, TRAIN
from moe_numpy.orchestration.spoken_arithmetic import expression_of
from moe_numpy.training import Run, Trainer, presets

RESULTS = Path(__file__).parent / "results" / "orchestration.json"
WRITTEN = Path(__file__).parents[1] / "tests" / "orchestration"
_QUESTIONS = ("recall.tsv", "recall_in_other_words.tsv")
_PREFIX = 32  # bytes, of which a text's specialist is chosen
_WINDOWS = 100  # of each kind
_PROMPTS = 600  # of each outcome
_SEED = 7

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=Command)
def main(
    folder: Annotated[Path, typer.Option(help="Of the specialists.")] = Path("runs/specialists"),
    out: Annotated[Path, typer.Option(help="Where to write the results.")] = RESULTS,
    no_single: Annotated[
        bool, typer.Option("--no-single", help="Leave out the single models, which take some minutes to train.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure the router, the specialists, the archive and the calculator."""
    console = console_for(json)
    with refusals():
        specialists = Specialists(folder)
        router = open_router(folder)
    document = {
        "machine": processor(),
        "router": _router(router),
        "specialists": _specialists(specialists, router, {} if no_single else _singles(folder, console)),
        "archive": _archive(),
        "calculator": _calculator(),
    }
    write_json_atomically(out, document)
    if json:
        print_json(document)
    else:
        _print(console, document)


def _router(router: Router) -> dict[str, Any]:
    held_out = templates.prompts(TEST, _PROMPTS, _SEED)
    written = [line.split("\t") for line in (WRITTEN / "prompts.tsv").read_text("utf-8").splitlines()]
    by_hand = [templates.Prompt(text, kind, "by hand") for kind, text in written]
    began = time.perf_counter()
    router.probabilities([example.text for example in held_out])
    per_query = (time.perf_counter() - began) / len(held_out)
    return {
        "held_out_templates": _scores(router, held_out),
        "written_by_hand": _scores(router, by_hand),
        "temperature": router.temperature,
        "threshold": router.threshold,
        "milliseconds_per_query": 1000 * per_query,
    }


def _scores(router: Router, examples: list[templates.Prompt]) -> dict[str, Any]:
    """Of the four kinds: the share whose most probable outcome is right; of the rest, the share that is left alone."""
    p, label = router.probabilities([example.text for example in examples]), labels(examples)
    best, confidence = p.argmax(axis=1), p.max(axis=1)
    right, of_kind = best == label, label < len(KINDS)
    chosen = (best < len(KINDS)) & (confidence >= router.threshold)
    noise = ~of_kind
    return {
        "prompts": int(of_kind.sum()),
        "accuracy": float(right[of_kind].mean()),
        "accuracy_by_kind": {kind: float(right[label == i].mean()) for i, kind in enumerate(KINDS)},
        "expected_calibration_error": expected_calibration_error(confidence[of_kind], right[of_kind].astype(np.int64)),
        "chosen": float(chosen[of_kind].mean()),
        "accuracy_of_chosen": float(right[of_kind & chosen].mean()),
        "noise": int(noise.sum()),
        "abstained_on_noise": float(~chosen[noise].any() if noise.sum() == 1 else (~chosen[noise]).mean())
        if noise.any()
        else None,
    }


def _specialists(specialists: Specialists, router: Router, singles: dict[str, Any]) -> dict[str, Any]:
    """Mean losses on held-out texts, of the bytes behind the prefix that the specialist is chosen by."""
    windows = corpus_of(specialists.folder, *KINDS).validation_windows(MODEL.context, limit=_WINDOWS)
    models = [specialists.model(kind) for kind in KINDS]
    of_each = np.stack([losses(model, windows.tokens, windows.targets) for model in models])
    rest = of_each[:, :, _PREFIX:].mean(axis=2)  # [K, n]
    rows = np.arange(len(windows.domain))
    texts = [ByteTokenizer().decode(tokens[: _PREFIX + 1].tolist()) for tokens in windows.tokens]
    by_router = router.probabilities(texts)[:, : len(KINDS)].argmax(axis=1)
    weight = posterior(of_each, _PREFIX)
    choices = {
        "oracle": rest.argmin(axis=0),
        "own kind": windows.domain,
        "posterior of the prefix": weight.argmax(axis=1),
        "router on the prefix": by_router,
        "at random, the mean": None,
    }
    found: dict[str, Any] = {}
    for name, choice in choices.items():
        loss = rest.mean(axis=0) if choice is None else rest[choice, rows]
        found[name] = _by_kind(loss, windows.domain)
        if choice is not None:
            found[name]["is_oracles_choice"] = float((choice == choices["oracle"]).mean())
    found["mixture by the posterior"] = _by_kind(mixed(of_each[:, :, _PREFIX:], weight).mean(axis=1), windows.domain)
    seed = Run.open(specialists.folder / SEED).model()[0].eval()
    for name, model in (singles | {"the seed": seed}).items():
        loss = losses(model, windows.tokens, windows.targets)[:, _PREFIX:].mean(axis=1)
        found[name] = _by_kind(loss, windows.domain)
    return {
        "texts": len(windows.domain),
        "prefix_bytes": _PREFIX,
        "parameters_of_each": seed.num_parameters(),
        "steps": {"seed": SEED_STEPS, "specialist": SPECIALIST_STEPS},
        "nats_per_byte": found,
    }


def _by_kind(loss: Any, domain: Any) -> dict[str, Any]:
    return {"mean": float(loss.mean())} | {kind: float(loss[domain == i].mean()) for i, kind in enumerate(KINDS)}


def _singles(folder: Path, console: Console) -> dict[str, Any]:
    """Models of the same size, of all kinds: with the steps of one specialist and its seed, and with those of all."""
    one, every = SEED_STEPS + SPECIALIST_STEPS, SEED_STEPS + len(KINDS) * SPECIALIST_STEPS
    return {f"one model, {steps:,} steps": _single(folder, steps, console) for steps in (one, every)}


def _single(folder: Path, steps: int, console: Console) -> Any:
    own = folder / f"single-{steps}"
    if not (own / "summary.json").exists():
        training = presets.training(steps=steps)
        with ExitStack() as held:
            with refusals():
                trainer = Trainer(MODEL, training, corpus_of(folder, *KINDS))
                started = (own / "config.json").exists()
                files = [str(text_file(folder, kind)) for kind in KINDS]
                opened = existing_run(own) if started else new_run(own, MODEL, training, files)
                run = held.enter_context(opened)
                if run.newest_step() is not None:
                    trainer.resume(run)
            run_training(run, trainer, console, label="single")
    return Run.open(own).model()[0].eval()


def _archive() -> dict[str, Any]:
    """Recall of what was said, among distractors, by paraphrased questions, and by questions in other words."""
    pairs, harder = (
        [line.split("\t") for line in (WRITTEN / name).read_text("utf-8").splitlines()] for name in _QUESTIONS
    )
    archive = Archive(":memory:")
    entries = dict(zip([said for said, _ in pairs], archive.add((said, "said") for said, _ in pairs), strict=True))
    archive.add((example.text, "other") for example in templates.prompts(TRAIN, 250, _SEED))
    found: dict[str, Any] = {"entries": len(archive)}
    for name, questions in (("paraphrased", pairs), ("in_other_words", harder)):
        hits = [[hit.entry for hit in archive.search(question, 5)] for _, question in questions]
        wanted = [entries[said] for said, _ in questions]
        at = {k: float(np.mean([w in h[:k] for w, h in zip(wanted, hits, strict=True)])) for k in (1, 5)}
        missed = [q for (_, q), w, h in zip(questions, wanted, hits, strict=True) if w not in h]
        found[name] = {"questions": len(questions), "recall_at_1": at[1], "recall_at_5": at[5], "missed": missed}
    return found


def _calculator(count: int = 2000) -> dict[str, Any]:
    """Random arithmetic in signs and words against fractions computed beside it."""
    rng = np.random.default_rng(_SEED)
    signs = {
        "+": ("+", " plus "),
        "-": (" - ", " minus "),
        "*": ("*", " times ", " multiplied by ", " × "),
        "/": (" / ", " divided by ", " ÷ "),
    }
    right = 0
    for _ in range(count):
        numbers = [int(n) for n in rng.integers(1, 10 ** int(rng.integers(1, 6)), size=int(rng.integers(2, 5)))]
        operations = [str(o) for o in rng.choice(list(signs), len(numbers) - 1)]
        text = _written(numbers[0], rng)
        for operation, number in zip(operations, numbers[1:], strict=True):
            text += str(rng.choice(signs[operation])) + _written(number, rng)
        right += calculate(expression_of(f"what is {text}?")).number == _expected(numbers, operations)
    return {"expressions": count, "right": right / count}


def _written(number: int, rng: np.random.Generator) -> str:
    return in_words(number) if rng.random() < 0.4 else f"{number:,}" if rng.random() < 0.3 else str(number)


def _expected(numbers: list[int], operations: list[str]) -> Fraction:
    """Products first, then sums, from left to right."""
    terms, last = [], Fraction(numbers[0])
    for operation, number in zip(operations, numbers[1:], strict=True):
        if operation in "*/":
            last = last * number if operation == "*" else last / number
        else:
            terms.append(last)
            last = Fraction(number if operation == "+" else -number)
    return sum(terms, Fraction(0)) + last


def _print(console: Console, document: dict[str, Any]) -> None:
    print_title(console, "Router")
    table = plain_table()
    for title in ("prompts", "number", "right", "ECE", "chosen", "right of these", "noise left"):
        table.add_column(title, justify="left" if title == "prompts" else "right")
    for name, shown in (("held_out_templates", "held out"), ("written_by_hand", "by hand")):
        s = document["router"][name]
        left = "" if s["abstained_on_noise"] is None else f"{100 * s['abstained_on_noise']:.1f} %"
        shares = (f"{100 * s[key]:.1f} %" for key in ("chosen", "accuracy_of_chosen"))
        row = f"{100 * s['accuracy']:.1f} %", f"{s['expected_calibration_error']:.3f}", *shares, left
        table.add_row(shown, str(s["prompts"]), *row)
    console.print(table)
    print_title(console, "Held-out texts, nats per byte")
    table = plain_table()
    for title in ("choice", "mean", *KINDS, "as the oracle"):
        table.add_column(title, justify="left" if title == "choice" else "right")
    for name, loss in document["specialists"]["nats_per_byte"].items():
        same = f"{100 * loss['is_oracles_choice']:.1f} %" if "is_oracles_choice" in loss else ""
        table.add_row(name, *(f"{loss[key]:.3f}" for key in ("mean", *KINDS)), same)
    console.print(table)
    archive, calculator = document["archive"], document["calculator"]
    for name in ("paraphrased", "in_other_words"):
        of = archive[name]
        console.print(
            f"Archive     recall at 5 {of['recall_at_5']:.3f}, at 1 {of['recall_at_1']:.3f}, of {of['questions']} "
            f"questions {name.replace('_', ' ')}, among {archive['entries']} entries"
        )
    console.print(f"Calculator  {100 * calculator['right']:.1f} % of {calculator['expressions']} expressions right")


assert OUTCOMES[: len(KINDS)] == KINDS

if __name__ == "__main__":
    app(prog_name="python -m benchmarks.orchestration")
