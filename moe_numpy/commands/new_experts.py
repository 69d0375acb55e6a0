"""``python -m moe_numpy experts add``: new experts for a new domain; what there was stays as it is."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..training import load_corpus, presets
from ..training.changing_experts import with_new_experts
from ..training.expert_patterns import patterns_of
from ..training.freezing import all_but_experts
from ..training.user_text import BUILT_IN
from .changed_runs import Opened, OutOption, RunArgument, free_folder, print_losses, write_run
from .output import JsonOption, console_for, one_line, print_command, print_json, print_title, refusals, with_default
from .run_training import run_training

_STEPS = 100
_SLOWER = 1 / 3  # than the run learned: at its rate, old text like the new domain loses more than 0.01 nats
_FIT_WINDOWS = 32  # of old and of new text, that the rows of new experts are fitted to


def add(
    run: RunArgument,
    text: Annotated[list[str], typer.Option(help="File or folder of the new domain; repeatable.")],
    count: Annotated[int, typer.Option(min=1, help="New experts in each layer.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = _STEPS,
    learning_rate: Annotated[
        float | None, typer.Option(help=with_default("Peak learning rate.", "a third of the run's"))
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of new rows, data and noise.")] = 0,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Add experts for a new domain: old experts, their rows of the router and all else are frozen.

    Trained is on the run's own text and the new domain, so that the new rows learn which text is not theirs.
    """
    console = console_for(json)
    with ExitStack() as held:
        with refusals(), console.status("Fitting rows of the router ..."):
            opened = Opened.open(run)
            paths = [*(opened.run.text or (BUILT_IN,)), *(str(Path(path).resolve()) for path in text)]
            context, old = opened.config.context, opened.run.training_config
            alone, corpus = load_corpus(paths[-len(text) :], context), load_corpus(paths, context)
            fit: Any = {"batch_size": _FIT_WINDOWS, "context": context, "seed": seed}
            windows = [each.batch(0, **fit).tokens for each in (opened.corpus, alone)]
            rng = np.random.default_rng([seed, 2])
            changed = with_new_experts(opened.config, opened.model, count, *windows, rng=rng)
            before = opened.config.num_experts
            new = {i: set(range(before, before + count)) for i in changed.entries}
            kept = {i: set(range(before)) for i in changed.entries}
            layers = changed.entries.keys()
            training = replace(
                presets.training(steps=steps, seed=seed, learning_rate=learning_rate or _SLOWER * old.learning_rate),
                batch_size=old.batch_size,
                weight_decay=old.weight_decay,
                freeze=(*all_but_experts(changed.model), *patterns_of(kept, layers)),
            )
            name = " ".join(domain.name for domain in alone.domains)
            if name in opened.run.groups:
                raise ValueError(f"{run} has a group {name!r} already; rename the file or folder")
            groups = opened.groups_of(changed) | {name: tuple(patterns_of(new, layers))}
            of_old, at_start = (opened.evaluate(each, corpus) for each in (opened.model, changed.model))
            folder = free_folder(out, run, alone.domains[0].name)
            made, trainer = write_run(held, folder, changed.model, changed.config, training, corpus, paths, groups)
        shown = f"{trainer.trained_parameters:,} of {trainer.num_parameters:,} parameters"
        console.print(
            f"{one_line(folder)}: {count} new experts in each layer, group {one_line(name)}; trained: {shown}",
            markup=False,
            soft_wrap=True,
        )
        summary = run_training(made, trainer, console, label="MoE")
        after = opened.evaluate(trainer.model, corpus)
    if json:
        losses = {"old": of_old, "start": at_start, "trained": after}
        print_json(
            {"run": str(run), "out": str(folder), "group": name, "trained_parameters": trainer.trained_parameters}
            | {f"domain_loss_{key}": value.domain_loss.tolist() for key, value in losses.items()}
            | {"summary": summary}
        )
        return
    domains = [domain.name for domain in corpus.domains]
    print_losses(console, domains, corpus.unit, {"before": of_old, "at the start": at_start, "trained": after})
    print_title(console, "Next")
    print_command(console, "generate", folder, "The ")
    print_command(console, "generate", folder, "The ", "--without", name)
    print_command(console, "experts", "list", folder)
