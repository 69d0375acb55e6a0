"""``python -m moe_numpy experts``: the experts of a run, and what adding, dropping, merging and freezing them costs."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any

import typer

from ..moe.merging import weight_similarity
from ..training.changing_experts import (
    least_into_nearest,
    least_used,
    with_experts,
    with_merged,
    without_experts,
)
from ..training.expert_patterns import moe_layers, patterns_of
from ..training.expert_use import expert_use
from .changed_runs import (
    Opened,
    OutOption,
    RunArgument,
    free_folder,
    frozen_experts,
    report,
    write_changed,
    write_run,
)
from .new_experts import add
from .output import (
    JsonOption,
    console_for,
    one_line,
    plain_table,
    print_json,
    print_title,
    refusals,
)
from .units import percent
from .usage import Group

_MEASURES = {"gate-mass": "gate_mass", "contribution": "contribution", "load": "load"}
_SIMILARITIES = "outputs", "weights"

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List, add, drop, merge and freeze the experts of a run; each change is a new run.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="LAYER:EXPERTS|GROUP", help="Such as 0:3, 1:0-2,5, '*:4', or the name of a group."),
]


@app.command("list")
def list_experts(run: RunArgument, json: JsonOption = False) -> None:
    """Each expert's load, gate mass, and the expert that answers most like it, on held-out text."""
    console = console_for(json)
    with refusals(), console.status("Routing held-out text ..."):
        opened = Opened.open(run)
        used = expert_use(opened.model, opened.corpus)
    frozen = frozen_experts(opened)
    groups = {name: opened.chosen([name]) for name in opened.run.groups}
    rows: list[dict[str, Any]] = []
    for i, use in used.items():
        for e in range(len(use.load)):
            other, cosine = use.nearest(e)
            rows.append(
                {
                    "layer": i,
                    "expert": e,
                    "load": float(use.load[e]),
                    "gate_mass": float(use.gate_mass[e]),
                    "contribution": float(use.contribution[e]),
                    "nearest": other,
                    "similarity": cosine,
                    "frozen": e in frozen[i],
                    "group": next((name for name, of in groups.items() if e in of.get(i, ())), None),
                }
            )
    if json:
        print_json({"run": str(run), "step": opened.step, "experts": rows})
        return
    for i in used:
        print_title(console, f"Layer {i}")
        table = plain_table()
        for name in ("expert", "load", "gate mass", "nearest", "cosine"):
            table.add_column(name, justify="right")
        table.add_column("")
        for row in (row for row in rows if row["layer"] == i):
            marks = ["frozen"] * row["frozen"] + [one_line(row["group"])] * (row["group"] is not None)
            shares = percent(row["load"]), percent(row["gate_mass"])
            table.add_row(str(row["expert"]), *shares, str(row["nearest"]), f"{row['similarity']:.3f}", " ".join(marks))
        console.print(table)
    console.print("The cosine is between answers to the same held-out tokens.", style="dim")


app.command()(add)


@app.command()
def drop(
    run: RunArgument,
    names: NamesArgument = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Those of each layer with the least gate-mass, the sum of their gate weights; contribution, the mean "
            "of gate weight times length of the answer; or load."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="With --by: how many of each layer.")] = 1,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Drop experts, and measure what that costs on held-out text."""
    console = console_for(json)
    with refusals(), console.status("Routing held-out text ..."):
        if by not in (None, *_MEASURES):
            raise ValueError(f"--by must be one of {', '.join(_MEASURES)}, got {by!r}")
        if (by is None) == (not names):
            raise ValueError("name the experts to drop, or give --by gate-mass; not both, and not neither")
        opened = Opened.open(run)
        dropped = opened.chosen(names or [])
        if by is not None:
            used = expert_use(opened.model, opened.corpus).items()
            dropped = least_used({i: getattr(use, _MEASURES[by]) for i, use in used}, count)
        changed = without_experts(opened.config, opened.model, dropped)
        before, after = opened.evaluate(opened.model), opened.evaluate(changed.model)
        made = write_changed(opened, changed, free_folder(out, run, "dropped"))
    listed = patterns_of(dropped, changed.entries.keys())
    if not json:
        console.print(f"Dropped {' '.join(listed)}", markup=False, soft_wrap=True)
    report(console, json, opened, made, before, after, dropped=listed)


@app.command()
def merge(
    run: RunArgument,
    by: Annotated[
        str, typer.Option(help="How alike two experts are: outputs, by answers to held-out text, or weights.")
    ] = "outputs",
    count: Annotated[int, typer.Option(min=1, help="Pairs of each layer.")] = 1,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Merge the experts with the least gate mass into those most like them, and measure what that costs.

    Hidden units are put into the same order first. The merged expert keeps the row of the router of the other.
    """
    console = console_for(json)
    with refusals(), console.status("Comparing experts ..."):
        if by not in _SIMILARITIES:
            raise ValueError(f"--by must be one of {', '.join(_SIMILARITIES)}, got {by!r}")
        opened = Opened.open(run)
        used = expert_use(opened.model, opened.corpus)
        alike = {i: use.similarity for i, use in used.items()}
        if by == "weights":
            alike = {i: weight_similarity(layer) for i, layer in moe_layers(opened.model).items()}
        mass = {i: use.gate_mass for i, use in used.items()}
        pairs = least_into_nearest(mass, alike, count)
        changed = with_merged(opened.config, opened.model, pairs, mass)
        before, after = opened.evaluate(opened.model), opened.evaluate(changed.model)
        made = write_changed(opened, changed, free_folder(out, run, "merged"))
    listed = [f"{i}:{other}>{kept}" for i, of_layer in pairs.items() for kept, other in of_layer]
    if not json:
        console.print(f"Merged {' '.join(listed)}", markup=False, soft_wrap=True)
    report(console, json, opened, made, before, after, merged=listed)


@app.command()
def freeze(run: RunArgument, names: NamesArgument = None, out: OutOption = None, json: JsonOption = False) -> None:
    """Freeze experts and their rows of the router: a new run whose training leaves them as they are."""
    console = console_for(json)
    with refusals(), console.status("Routing held-out text ..."):
        if not names:
            raise ValueError("name the experts to freeze, such as 0:3, '*:0-7' or a group")
        opened = Opened.open(run)
        frozen = patterns_of(opened.chosen(names), moe_layers(opened.model).keys())
        whole = {i: list(range(opened.config.num_experts)) for i in moe_layers(opened.model)}
        same = with_experts(opened.config, opened.model, whole, opened.config.num_experts)
        training = opened.training(same)
        training = replace(training, freeze=tuple(dict.fromkeys((*training.freeze, *frozen))))
        before = opened.evaluate(opened.model)
        with ExitStack() as held:
            settings = same.config, training, opened.corpus, opened.run.text, opened.groups_of(same)
            made, trainer = write_run(held, free_folder(out, run, "frozen"), same.model, *settings)
        after = opened.evaluate(trainer.model)
    if not json:
        trained = f"{trainer.trained_parameters:,} of {trainer.num_parameters:,} parameters are trained"
        console.print(f"Frozen {' '.join(frozen)}: {trained}", markup=False, soft_wrap=True)
    report(console, json, opened, made, before, after, frozen=frozen, trained_parameters=trainer.trained_parameters)
