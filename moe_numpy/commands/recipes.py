"""``python -m moe_numpy recipes``: the published routers, and one in detail with what probing it shows."""

import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ..instruments.batch_dependence import BatchDependence, batch_dependence
from ..instruments.causality import Causality, causality
from ..instruments.gradient_paths import GradientPaths, describe_state, gradient_paths, percent
from ..instruments.influence import Pair
from ..instruments.probe import Probe
from ..moe.layer import Recipe
from ..moe.recipes import RECIPES, PublishedRecipe, find
from ..moe.router import RouterConfig
from .output import JsonOption, command_line, console_for, plain_table, print_json, print_title, refusals

_WIDE = 110  # columns of a terminal from which the overview has room for papers
_NUM_EXPERTS = 16  # of the layers that are probed
_ALWAYS_SHOWN = ("selection", "scores", "gates")


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="One recipe in detail, or your own: FILE.py:FUNCTION.", show_default="all")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Published routers: what they choose by, how they balance, and which gradients they have."""
    console = console_for(json)
    if name is None:
        with console.status("Probing every recipe ..."):
            rows = [overview(recipe) for recipe in RECIPES.values()]
        if json:
            print_json({"recipes": rows})
        else:
            _print_overview(console, rows)
        return
    with refusals():
        recipe = find(name)
        probed = recipe(**recipe.small)
        Probe(probed, num_experts=_NUM_EXPERTS).layer()  # raises for settings that do not fit
    with console.status(f"Probing {recipe.name} ..."):
        paths = gradient_paths(probed, num_experts=_NUM_EXPERTS)
        causal = causality(probed, num_experts=_NUM_EXPERTS)
        dependence = batch_dependence(probed, num_experts=_NUM_EXPERTS)
    if json:
        print_json(
            {
                **overview(recipe),
                "formula": _formula(recipe),
                "configuration": dict(_configuration(recipe())),
                "settings": recipe.settings,
                "probed_with": {"num_experts": _NUM_EXPERTS, **recipe.small},
                "gradient_paths": paths.as_json(),
                "causality": causal.as_json(),
                "batch_dependence": dependence.as_json(),
            }
        )
        return
    origin = "" if recipe.year is None else f"  {recipe.year}  {recipe.paper}"
    console.print(Text.assemble((recipe.name, "bold"), origin))
    console.print()
    console.print(Padding(Text(_formula(recipe)), (0, 0, 1, 2)))
    _print_pairs(console, "Configuration", _configuration(recipe()))
    with_defaults = [(setting, str(value)) for setting, value in recipe.settings.items()]
    _print_pairs(console, "Settings and their defaults", with_defaults or [("none", "")])
    small = "".join(f", {setting}={value}" for setting, value in recipe.small.items())
    print_title(console, f"Probed in random layers of {_NUM_EXPERTS} experts{small}")
    console.print()
    _print_paths(console, paths)
    _print_dependence(console, causal, dependence)


def overview(published: PublishedRecipe) -> dict[str, Any]:
    """One row of the table, from the recipe itself."""
    recipe = published()
    found = causality(published(**published.small), num_experts=_NUM_EXPERTS)
    return {
        "name": published.name,
        "year": published.year,
        "selection": _selection(recipe),
        "gates": _gates(recipe.router),
        "balance": _balance(recipe.router),
        "capacity": _capacity_factor(recipe.router),
        "causal_in_training": found.training is None,
        "causal_in_evaluation": found.evaluation is None,
        "shared_experts": recipe.shared_experts,
        "shared_experts_gated": recipe.gated_shared,
        "paper": published.paper,
    }


def _print_overview(console: Console, rows: list[dict[str, Any]]) -> None:
    wide = console.width >= _WIDE
    table = plain_table()
    table.padding = (0, 1, 0, 0)
    table.add_column("name", no_wrap=True)
    table.add_column("year", no_wrap=True)
    for column in ("selection", "gates", "balance"):
        table.add_column(column, min_width=11, max_width=12)
    table.add_column("cap.", no_wrap=True)
    table.add_column("causal", no_wrap=True)
    table.add_column("shared", no_wrap=True)
    if wide:
        table.add_column("paper")
    for row in rows:
        shared = row["shared_experts"]
        cells = [
            row["name"],
            str(row["year"]),
            row["selection"],
            row["gates"],
            row["balance"],
            "-" if row["capacity"] is None else f"{row['capacity']:g}",
            _causal(row),
            f"{shared or '-'}{' gated' if row['shared_experts_gated'] else ''}",
        ]
        table.add_row(*map(Text, cells), *([Text(row["paper"])] if wide else []))
    console.print(table)
    console.print()
    console.print(
        "causal: whether earlier outputs stayed put when later tokens were exchanged, in random layers; "
        "eval: only in evaluation. cap.: capacity factor. shared: experts that every token uses."
    )
    with_paper = "" if wide else ", with its paper"
    console.print(Text(f"One in detail{with_paper}: {command_line('recipes', rows[-1]['name'])}"), soft_wrap=True)


def _causal(row: dict[str, Any]) -> str:
    if row["causal_in_training"]:
        return "yes" if row["causal_in_evaluation"] else "no"
    return "eval" if row["causal_in_evaluation"] else "no"


def _print_pairs(console: Console, title: str, pairs: list[tuple[str, str]]) -> None:
    print_title(console, title)
    table = plain_table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column()
    for key, value in pairs:
        table.add_row(Text(f"  {key}"), Text(value))
    console.print(table)
    console.print()


def _print_paths(console: Console, paths: GradientPaths) -> None:
    print_title(console, "Logits that receive a gradient")
    table = plain_table()
    table.add_column("  of the term", no_wrap=True)
    for column in ("kept", "dropped", "not chosen"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("arrives at")
    for path in paths.paths:
        reached = [name for name, arrives in path.parameters.items() if arrives]
        table.add_row(
            Text(f"  {path.term}" + (f", {path.router}" if path.router else "")),
            *map(percent, (path.kept, path.dropped, path.not_chosen)),
            Text(", ".join(reached) or "nothing", "" if reached else "bold"),
        )
    console.print(table)
    errors = [path.finite_difference_error for path in paths.paths if path.finite_difference_error is not None]
    if errors:
        worst = f" to {max(errors):.0e}" if max(errors) else ""
        console.print(f"  Finite differences agree{worst}.")
    console.print()
    verdicts: dict[str, list[str]] = {}
    for quantity in paths.quantities:
        verdicts.setdefault(quantity.verdict, []).append(quantity.name)
    pairs = [(verdict, ", ".join(names)) for verdict, names in verdicts.items()]
    if paths.state is not None:
        pairs.append(("balancing state", describe_state(paths.state)))
    if not paths.task_reaches_router:
        pairs.append(("router", "learns nothing from the task"))
    if pairs:
        _print_pairs(console, "Constant for the derivative, and not", pairs)


def _print_dependence(console: Console, causal: Causality, dependence: BatchDependence) -> None:
    print_title(console, "Does an output move when another token is exchanged?")
    table = plain_table()
    for column in ("  exchanged", "in training", "in evaluation"):
        table.add_column(column)
    training, evaluation = dependence.training, dependence.evaluation
    for what, pairs in (
        ("a later token", (causal.training, causal.evaluation)),
        ("any of its sequence", (training.own_sequence, evaluation.own_sequence)),
        ("one of another sequence", (training.other_sequences, evaluation.other_sequences)),
    ):
        table.add_row(f"  {what}", *map(_moved, pairs))
    console.print(table)
    if causal.selection_says and not causal.causal:
        console.print("  The selection alone is causal; who is dropped depends on later tokens.")


def _moved(pair: Pair | None) -> Text:
    if pair is None:
        return Text("no")
    (a, s), (b, t) = pair.changed, pair.moved
    where = f"{s} → {t}" if a == b else f"{a}:{s} → {b}:{t}"
    return Text(f"yes: {where}, by {100 * pair.change:.3g} %")


def _formula(published: PublishedRecipe) -> str:
    """The docstring without the marks of its markup."""
    text = inspect.getdoc(published.build) or ""
    text = re.sub(r":\w+:`(?:[\w.]*\.)?(\w+)`", r"\1", text).replace("``", "")
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def _configuration(recipe: Recipe) -> list[tuple[str, str]]:
    """The fields that differ from their defaults, and those without which nothing can be understood."""
    router = [] if recipe.router is None else _differing(recipe.router, _ALWAYS_SHOWN)
    return router + [pair for pair in _differing(recipe) if pair[0] != "router"]


def _differing(config: Any, always: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    pairs = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in always or field.default is MISSING or value != field.default:
            pairs.append((field.name, _value(field.name, value)))
    return pairs


def _value(field: str, value: Any) -> str:
    """A setting for people: parts with what matters of their own settings, in the notation of Python."""
    if field == "scores" and value is None:
        return "the logits themselves"
    if isinstance(value, tuple):
        return ", ".join(_value(field, part) for part in value) or "the scores as they are"
    if isinstance(value, type):
        return value.__name__
    if is_dataclass(value):
        settings = [(f, getattr(value, f.name)) for f in fields(value)]
        # The first setting is what the part is about: top_k, a factor, a coefficient.
        shown = [(f, v) for i, (f, v) in enumerate(settings) if v != f.default or (i == 0 and v)]
        return f"{type(value).__name__}({', '.join(f'{f.name}={_value(f.name, v)}' for f, v in shown)})"
    return str(value)


def _selection(recipe: Recipe) -> str:
    """The selection in a few words."""
    if recipe.router is None:
        return f"none, {recipe.slots} slots"
    words = recipe.router.selection.words
    if recipe.zero_experts:
        words += f", {recipe.zero_experts} zero"
    return words + (f", {len(recipe.groups) + 1} levels" if recipe.groups else "")


def _gates(router: RouterConfig | None) -> str:
    """From logits to gate weights in a few words."""
    if router is None:
        return "softmax"
    name = getattr(router.scores, "__name__", "own").lower()
    words = [] if router.scores is None else [getattr(router.scores, "words", name)]
    words += [step.words for step in router.gates]
    if router.gate_on == "input":
        words.append("on input")
    return ", ".join(words) or "logit"


def _balance(router: RouterConfig | None) -> str:
    """What keeps the experts evenly loaded: a balancer, losses, both or nothing."""
    if router is None:
        return "-"
    words = [] if router.balancer is None else [router.balancer.words]
    return ", ".join([*words, *(loss.name for loss in router.losses)]) or "-"


def _capacity_factor(router: RouterConfig | None) -> float | None:
    """Places relative to perfect balance; None without a limit."""
    if router is None:
        return None
    return router.selection.capacity_factor if router.capacity is None else router.capacity.factor
