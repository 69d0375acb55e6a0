"""A run whose experts are changed: opened, measured before and after, and written as a new run."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..models import ModelConfig, Transformer
from ..nn.module import Unfilled
from ..training import Corpus, Run, Trainer, TrainingConfig
from ..training.changing_experts import Changed, require_changeable
from ..training.evaluation import WINDOWS_PER_DOMAIN, Evaluation, evaluate
from ..training.expert_patterns import Chosen, chosen_experts, moe_layers
from ..training.freezing import NothingToTrainError, freeze
from ..training.runs import next_free
from .output import given_path, note, one_line, plain_table, print_command, print_json, with_default
from .run_training import new_run

RunArgument = Annotated[Path, typer.Argument(parser=given_path, metavar="RUN", help="Run folder.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        parser=given_path, metavar="PATH", help=with_default("Folder of the new run.", "RUN-CHANGE, or the next free")
    ),
]


@dataclass(frozen=True, eq=False)
class Opened:
    """A run whose experts may change, at its newest checkpoint."""

    run: Run
    config: ModelConfig
    model: Transformer
    corpus: Corpus
    step: int

    @classmethod
    def open(cls, folder: Path) -> "Opened":
        """ValueError if it is no run, its text has changed, or its experts cannot change."""
        run = Run.open(folder)
        checkpoint, corpus = run.verified(), run.corpus()
        run.require_text(corpus, checkpoint)
        model = run.model_of(checkpoint)
        return cls(run, require_changeable(run.model_config, model), model, corpus, checkpoint.step)

    def evaluate(self, model: Transformer, corpus: Corpus | None = None) -> Evaluation:
        """A model on held-out text."""
        corpus = corpus or self.corpus
        windows = corpus.validation_windows(self.config.context, limit=WINDOWS_PER_DOMAIN)
        return evaluate(model, windows, len(corpus.domains))

    def chosen(self, names: Sequence[str]) -> Chosen:
        """The experts that LAYER:EXPERTS and the names of groups stand for."""
        return chosen_experts(self.model, self.run.groups, names)

    def groups_of(self, changed: Changed) -> dict[str, tuple[str, ...]]:
        """The groups, by the numbers of another model; without those that are gone."""
        renamed = {name: changed.renamed(self.model, of) for name, of in self.run.groups.items()}
        return {name: tuple(of) for name, of in renamed.items() if of}

    def training(self, changed: Changed) -> TrainingConfig:
        """How the run is trained, with its frozen experts by the numbers of another model; on the CPU.

        If the experts that were trained are gone, nothing is frozen.
        """
        config = self.run.training_config
        frozen = tuple(changed.renamed(self.model, config.freeze))
        try:
            freeze(Transformer(changed.config, rng=Unfilled()), frozen)
        except NothingToTrainError:
            note("the experts that were trained are gone, and all else was frozen: nothing is frozen in the new run")
            frozen = ()
        return replace(config, freeze=frozen, device="cpu", dtype="float32")


def write_run(
    held: ExitStack,
    folder: Path,
    model: Transformer,
    config: ModelConfig,
    training: TrainingConfig,
    corpus: Corpus,
    text: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
) -> tuple[Run, Trainer]:
    """A new run that begins with these weights, as a checkpoint of step 0; open until ``held`` is closed."""
    trainer = Trainer(config, training, corpus)
    trainer.model.load_state_dict(model.state_dict())
    run = held.enter_context(new_run(folder, config, training, text, None, groups))
    trainer.save(run)
    return run, trainer


def free_folder(out: Path | None, run: Path, change: str) -> Path:
    """Where a changed run goes."""
    return out or next_free(run.with_name(f"{run.name}-{change}"))


def write_changed(opened: Opened, changed: Changed, folder: Path) -> Run:
    """The run with another model and the rest as it was."""
    with ExitStack() as held:
        settings = opened.training(changed), opened.corpus, opened.run.text, opened.groups_of(changed)
        run, _ = write_run(held, folder, changed.model, changed.config, *settings)
    return run


def report(
    console: Console, json: bool, opened: Opened, run: Run, before: Evaluation, after: Evaluation, **more: Any
) -> None:
    """What a change cost, as a table or a document."""
    domains = [domain.name for domain in opened.corpus.domains]
    if json:
        losses = {
            "loss_before": before.loss,
            "loss_after": after.loss,
            "domains": domains,
            "domain_loss_before": before.domain_loss.tolist(),
            "domain_loss_after": after.domain_loss.tolist(),
        }
        print_json({"run": str(opened.run.folder), "out": str(run.folder), "step": opened.step} | more | losses)
        return
    print_losses(console, domains, opened.corpus.unit, {"before": before, "after": after})
    count = run.model_config.num_experts
    console.print(f"{one_line(run.folder)}: {count} experts in each layer", markup=False, soft_wrap=True)
    print_command(console, "generate", run.folder, "The ")
    print_command(console, "train", "--resume", "--out", run.folder)


def print_losses(console: Console, domains: Sequence[str], unit: str, losses: Mapping[str, Evaluation]) -> None:
    """A row per domain, a column per model, and by how much the last differs from the first."""
    columns = list(losses.values())
    table = plain_table()
    table.add_column(f"nats/{unit}", max_width=24, no_wrap=True)
    for name in (*losses, "change"):
        table.add_column(name, justify="right")
    for d, domain in enumerate(domains):
        of_domain = [each.domain_loss[d] for each in columns]
        table.add_row(one_line(domain), *(f"{x:.4f}" for x in of_domain), f"{of_domain[-1] - of_domain[0]:+.4f}")
    whole = [each.loss for each in columns]
    table.add_row("all", *(f"{x:.4f}" for x in whole), f"{whole[-1] - whole[0]:+.4f}")
    console.print(table)


def frozen_experts(opened: Opened) -> Chosen:
    """Those that training leaves as they are."""
    frozen = [pattern for pattern in opened.run.training_config.freeze if ":" in pattern]
    return dict.fromkeys(moe_layers(opened.model), frozenset()) | opened.chosen(frozen)
