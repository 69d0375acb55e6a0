"""What is told before training starts: the text, the model, what it learns from."""

from rich.console import Console

from ..instruments.gradient_paths import gradient_paths
from ..models import ModelConfig
from ..moe.balancers import LossFreeBias
from ..pretrained import PublishedConfig
from ..training import Corpus, Run, Trainer
from .output import note, one_line

_LISTED = 20  # files that were left out, per domain and reason
_MOST_PROBED = 256  # experts of a layer whose router is probed for a gradient before training


def print_left_out(console: Console, corpus: Corpus) -> None:
    """What of the user's folders was read, and what was not, by reason."""
    for domain in corpus.domains:
        size = domain.train.size + domain.validation.size
        if domain.left_out:
            lost = sum(each.size for each in domain.left_out)
            of = f" ({lost:,} bytes)" if lost else ""
            _say(console, f"{one_line(domain.name)}: {domain.files} files, {size:,} {corpus.unit}s; left out{of}:")
        for reason in dict.fromkeys(each.reason for each in domain.left_out):
            paths = [one_line(each.path) for each in domain.left_out if each.reason == reason]
            _say(
                console,
                f"  {reason}: {', '.join(paths[:_LISTED])}"
                + (f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""),
            )


def print_start(console: Console, run: Run, trainer: Trainer) -> None:
    """What is trained, on what, and what about it may surprise."""
    unit = trainer.corpus.unit
    domains = ", ".join(f"{one_line(d.name)} ({d.train.size:,} {unit}s)" for d in trainer.corpus.domains)
    _say(
        console,
        f"{one_line(run.folder)}: {trainer.num_parameters:,} parameters, {trainer.active_parameters:,} active per "
        f"token; domains {domains}",
    )
    pictures = trainer.corpus.pictures
    if pictures is not None:
        _say(console, f"Pictures: {len(pictures.labels):,} with captions, {len(pictures.held_out_labels):,} held out")
    config = run.model_config
    if trainer.config.freeze:
        _say(console, f"Frozen: {trainer.num_parameters - trainer.trained_parameters:,} of the parameters")
    if isinstance(config, PublishedConfig) and config.num_experts:
        _say(console, f"Loss: {_losses_of(config, trainer)}")
    parts = config.transformer.sparse_layers[:1]  # of the others the recipe is the same
    if parts and parts[0].num_experts <= _MOST_PROBED:
        recipe, num_experts = parts[0].recipe, parts[0].num_experts
        if not gradient_paths(recipe, num_experts=num_experts).task_reaches_router:
            of = f"of {config.recipe} with these settings" if isinstance(config, ModelConfig) else "of this model"
            note(f"no gradient of the task reaches the router {of}: what it chooses does not learn from the loss")


def _losses_of(config: PublishedConfig, trainer: Trainer) -> str:
    """What a published model with experts is trained on, and how its routers are balanced."""
    transformer = config.transformer
    coefficient, router = transformer.balance_coefficient, transformer.sparse_layers[0].recipe.router
    balance = f"{coefficient:g} times the balance loss over all layers" if coefficient else "no balance loss"
    words = f"next-token cross-entropy and {balance}, as config.json and transformers have it"
    balancer = None if router is None else router.balancer
    states = [buffer for _, buffer in trainer.model.named_buffers()]
    if isinstance(balancer, LossFreeBias) and any(len(state.frozen) < len(state.data) for state in states):
        words += f"; the bias that each expert is chosen with moves by {balancer.rate:g} a step, without a loss"
    return words


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
