"""A scaling law in small: python -m benchmarks.scaling [--small] [--device cuda] [--figure docs/figures/scaling.png]

Trains byte models that differ in active parameters N, experts E, granularity G and tokens D
(benchmarks/scaling_sweep.py) on the built-in text, fits the laws of Krajewski et al. 2024 and Clark et al. 2022 to
their held-out loss (moe_numpy/accounting/scaling_laws.py), and prints the coefficients beside the published ones.

Each finished model is a line of the results. A second call trains what is missing; --no-train fits what is there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from moe_numpy import devices, plots
from moe_numpy.autodiff import NonFiniteError
from moe_numpy.commands.output import (
    JsonOption,
    console_for,
    given_path,
    note,
    plain_table,
    print_json,
    print_title,
    refusals,
    refuse,
    with_default,
)
from moe_numpy.commands.progress import clock
from moe_numpy.commands.usage import Command, exit_on_signals
from moe_numpy.plots.scaling import loss_laws
from moe_numpy.training import Corpus, StepRecord, default_corpus
from moe_numpy.training.lock import locked

from .scaling_fits import LAWS, fitted, noise, other_rates
from .scaling_sweep import SWEEPS, Model, Result, cut_torn_line, finished, text_of, train

_TITLES = {
    "krajewski": "L = c + (g / G^γ + a) / N^α + b / D^β   (Krajewski et al. 2024)",
    "clark": "log L = a log N + b log Ê + c log N log Ê + d   (Clark et al. 2022)",
}
_SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "e_start": "E_start", "e_max": "E_max"}
_PUBLISHED = {"krajewski": "E = 64", "clark": "S-BASE"}
_RESULTS = Path("runs/scaling.jsonl")
_PER_TOKEN = 3e5  # what a token costs beside its parameters, in parameters: a guess, for the time left

app = typer.Typer(add_completion=False, context_settings={"help_option_names": ["-h", "--help"]})


@app.command(cls=Command)
def main(
    small: Annotated[bool, typer.Option("--small", help="A grid for a CPU, which shows how it is done.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda for a GPU.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=given_path,
            metavar="PATH",
            help=with_default("Results, a line of JSON for each model.", str(_RESULTS)),
        ),
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Fit the models that are finished.")] = False,
    resamples: Annotated[int, typer.Option(min=0, max=10_000, help="Of the models, for the intervals.")] = 200,
    figure: Annotated[Path | None, typer.Option(parser=given_path, metavar="PATH", help="PNG to draw.")] = None,
    json: JsonOption = False,
) -> None:
    """Train small models over N, E, G and D, and fit scaling laws with error bars."""
    console, name, out = console_for(json), "small" if small else "large", out or _RESULTS
    with refusals():
        devices.namespace(device)
        if no_train and not out.exists():
            raise ValueError(f"--no-train needs finished models, and {out} does not exist")
        results = finished(out, name) if no_train else {}
    if not no_train:
        results = _trained(name, device, out, console)
    if not results:
        refuse(f"{out} has no model of the {name} sweep", exit_code=1)
    document: dict[str, Any] = {
        "sweep": name,
        "models": len(results),
        "of": len(SWEEPS[name].models),
        "results": [msgspec.to_builtins(each) for each in results.values()],
        "noise": noise(results),
        "learning_rates": other_rates(results),
        "laws": _laws(name, results, resamples, console),
    }
    if figure is not None:
        plots.save(loss_laws(document["results"], document["laws"], SWEEPS[name].fixed_experts), figure)
    if json:
        print_json(document)
    else:
        _print(document, console)


def _trained(name: str, device: str, out: Path, console: Console) -> dict[Model, Result]:
    """Train what the file lacks."""
    with ExitStack() as held:
        with refusals():
            out.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(out.parent))
            results = finished(out, name)
            missing = [model for model in SWEEPS[name].models if model not in results]
            if not missing:
                return results
            corpus = default_corpus()
            if any(each.text != text_of(corpus) for each in results.values()):
                raise ValueError(
                    f"{out}: its models were trained on other text than this Python has; use another --out"
                )
            cut_torn_line(out)
        try:
            return results | _train_each(name, missing, corpus, device, out, console)
        except (KeyboardInterrupt, SystemExit):
            note(f"stopped; finished models are in {out}, and the same command continues")
            raise


def _train_each(
    name: str, missing: Sequence[Model], corpus: Corpus, device: str, out: Path, console: Console
) -> dict[Model, Result]:
    """Train models in order, with a line for each."""
    sweep, results = SWEEPS[name], {}
    before, left = len(sweep.models) - len(missing), sum(_work(name, model) for model in missing)
    done = seconds = 0.0
    for number, model in enumerate(missing, before + 1):
        label = f"{number:>3}/{len(sweep.models)}  {_label(sweep.parameters(model), model)}"
        with _status(console, label, model.tokens // sweep.batch_size // sweep.context) as show:
            try:
                result = train(name, model, corpus, device, out, show)
            except NonFiniteError as error:
                refuse(f"{model}: {error}; finished models are in {out}", exit_code=1)
        results[model] = result
        done, left, seconds = done + _work(name, model), left - _work(name, model), seconds + result.seconds
        took = f"loss {result.loss:.4f}  {result.seconds:5.1f} s"
        console.print(f"{label}  {took}  {clock(left * seconds / done)} left", soft_wrap=True)
    return results


def _work(name: str, model: Model) -> float:
    return model.tokens * (SWEEPS[name].parameters(model) + _PER_TOKEN)


@contextmanager
def _status(console: Console, label: str, steps: int) -> Iterator[Callable[[StepRecord], None]]:
    """Yield a function to call after each step, which shows it on a terminal."""
    if not console.is_interactive:
        yield lambda record: None
        return
    with console.status(label) as status:
        yield lambda record: status.update(f"{label}  step {record.step}/{steps}  loss {record.loss:.3f}")


def _laws(name: str, results: Mapping[Model, Result], resamples: int, console: Console) -> dict[str, Any]:
    """Of each law, its fit, or why there is none."""
    laws: dict[str, Any] = {}
    for law in LAWS:
        count = 0
        with console.status(f"Fitting {law} ...") as status:

            def advance() -> None:
                nonlocal count
                count += 1
                status.update(f"Fitting {law}: {count} of {resamples} resamples")  # noqa: B023

            try:
                laws[law] = fitted(law, name, results, resamples, advance)
            except ValueError as error:
                laws[law] = {"refused": str(error)}
    return laws


def _label(parameters: int, model: Model) -> str:
    rate = "" if model.rate == 1 else f" rate×{model.rate:g}"
    seed = "" if model.seed == 0 else f" seed {model.seed}"
    return (
        f"N {_short(parameters):>5} E {model.experts:>2} G {model.granularity} D {_short(model.tokens):>5}{rate}{seed}"
    )


def _short(count: float) -> str:
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def _print(document: dict[str, Any], console: Console) -> None:
    _print_losses(document, console)
    for law, fit in document["laws"].items():
        console.print()
        print_title(console, _TITLES[law])
        if "refused" in fit:
            console.print(f"not fitted: {fit['refused']}")
        else:
            _print_fit(law, fit, console)
    console.print()
    spread, rates = document["noise"], document["learning_rates"]
    if spread["deviation"] is not None:
        console.print(f"Noise: {spread['deviation']:.4f} over seeds, {spread['models']} models.")
    if rates:
        told = [f"{_short(r['parameters'])} ×{r['rate']:g} {r['more_loss']:+.4f}" for r in rates]
        console.print(f"Loss with another learning rate:\n{'; '.join(told)}")
    if document["models"] < document["of"]:
        console.print(f"Only {document['models']} of {document['of']} models are finished.")


def _print_losses(document: dict[str, Any], console: Console) -> None:
    """The loss of each model, those of one width in a row."""
    usual = [r for r in document["results"] if r["rate"] == 1 and r["seed"] == 0]
    kinds = sorted({(r["tokens"], r["granularity"], r["experts"]) for r in usual})
    widths = sorted({r["parameters"] for r in usual})
    losses = {(r["tokens"], r["granularity"], r["experts"], r["parameters"]): r["loss"] for r in usual}
    console.print()
    print_title(console, f"Held-out loss, nats per byte ({document['models']} models)")
    table = plain_table()
    for head in ("D", "G", "E", *(f"N {_short(n)}" for n in widths)):
        table.add_column(head, justify="right")
    for tokens, granularity, experts in kinds:
        cells = (losses.get((tokens, granularity, experts, n)) for n in widths)
        row = ("-" if cell is None else f"{cell:.4f}" for cell in cells)
        table.add_row(_short(tokens), str(granularity), str(experts), *row)
    console.print(table)


def _print_fit(law: str, fit: dict[str, Any], console: Console) -> None:
    table = plain_table()
    table.add_column("")
    for head in ("fitted", "90 % interval", f"published, {_PUBLISHED[law]}"):
        table.add_column(head, justify="right")
    for name, value in fit["coefficients"].items():
        ends = "-" if fit["intervals"] is None else " to ".join(f"{end:.3g}" for end in fit["intervals"][name])
        mark = " *" if name in fit["at_a_limit"] else ""
        table.add_row(_SYMBOLS.get(name, name), f"{value:.3g}{mark}", ends, f"{fit['published'][name]:g}")
    console.print(table)
    if fit["at_a_limit"]:
        console.print("* at the end of the range that was searched: these models do not determine it")
    console.print(f"Error over {fit['models']} models: {fit['error']:.4f} nats per byte.")
    widest = fit["widest"]
    if widest is None:
        console.print("The widest models cannot be predicted: the narrower ones do not suffice for a fit.")
    else:
        console.print(
            f"{widest['models']} widest models, predicted from the narrower ones: error {widest['error']:.4f}, "
            f"bias {widest['bias']:+.4f};\ntheir own mean would have an error of {widest['if_constant']:.4f}."
        )


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m benchmarks.scaling")
