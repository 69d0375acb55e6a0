"""``python -m moe_numpy train``: train a model on the built-in text or your own, or continue a run."""

import os
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from ..instruments.gradient_paths import gradient_paths
from ..models import ModelConfig
from ..moe.recipes import find
from ..training import Corpus, Run, Trainer, TrainingConfig, load_corpus, presets
from ..training.runs import next_free
from .figures import save_run_figures
from .output import (
    JsonOption,
    console_for,
    given_path,
    note,
    one_line,
    print_command,
    print_files,
    print_json,
    print_title,
    refusals,
    with_default,
)
from .run_training import existing_run, new_run, run_training

_LISTED = 20  # files that were left out, per domain and reason
_MOST_PROBED = 256  # experts of a layer whose router is probed for a gradient before training
_TRAINING = {"steps", "batch_size", "accumulate", "learning_rate", "seed", "checkpoint_every", "device", "dtype"}
_RECIPE = {"top_k", "capacity_factor", "eval_capacity_factor"}


def _model(help: str, default: object) -> Any:
    return typer.Option(help=with_default(help, default), rich_help_panel="Model")


def _training(help: str, default: object, min: int | None = None) -> Any:
    return typer.Option(help=with_default(help, default), rich_help_panel="Training", min=min)


# None stands for "not given": the preset, the recipe or the resumed run decides then.
def train(
    recipe: Annotated[
        str | None,
        _model("A name from `python -m moe_numpy recipes`, or your own: FILE.py:FUNCTION.", ModelConfig.recipe),
    ] = None,
    num_layers: Annotated[int | None, _model("Layers.", ModelConfig.num_layers)] = None,
    d_model: Annotated[int | None, _model("Width.", ModelConfig.d_model)] = None,
    num_experts: Annotated[int | None, _model("Experts per layer.", ModelConfig.num_experts)] = None,
    top_k: Annotated[int | None, _model("Experts per byte.", "the recipe's")] = None,
    d_ff: Annotated[int | None, _model("Hidden width of an expert.", ModelConfig.d_ff)] = None,
    capacity_factor: Annotated[
        float | None, _model("Places per expert, as a multiple of its fair share; 0: no limit.", "the recipe's")
    ] = None,
    eval_capacity_factor: Annotated[
        float | None, _model("The same in evaluation.", "the recipe's, or that of training")
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="No experts: one network, top-k times as wide.", rich_help_panel="Model"),
    ] = False,
    context: Annotated[int | None, _model("Longest sequence, in bytes.", ModelConfig.context)] = None,
    text: Annotated[
        list[str] | None, _training("File or folder, one domain each; repeatable.", "built-in text")
    ] = None,
    steps: Annotated[
        int | None, _training("Optimizer steps in all; with --resume, of a longer run.", TrainingConfig.steps)
    ] = None,
    batch_size: Annotated[int | None, _training("Sequences per pass.", TrainingConfig.batch_size)] = None,
    accumulate: Annotated[int | None, _training("Passes per step.", TrainingConfig.accumulate)] = None,
    learning_rate: Annotated[float | None, _training("Peak learning rate.", TrainingConfig.learning_rate)] = None,
    seed: Annotated[int | None, _training("Of weights, data and noise.", TrainingConfig.seed, min=0)] = None,
    checkpoint_every: Annotated[
        int | None, _training("Steps between checkpoints.", TrainingConfig.checkpoint_every)
    ] = None,
    device: Annotated[
        str | None, _training("cpu, or cuda for a GPU; a run can be resumed on the other.", TrainingConfig.device)
    ] = None,
    dtype: Annotated[
        str | None, _training("float32, or bfloat16 on cuda, with an optimizer in float32.", TrainingConfig.dtype)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=given_path, metavar="PATH", help=with_default("Run folder.", "runs/RECIPE or the next free name")
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, bit for bit.")] = False,
    from_step: Annotated[
        int | None, typer.Option(help=with_default("With --resume: the checkpoint to continue from.", "the newest"))
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a model on the built-in text or your own; Ctrl-C and SIGTERM save, --resume continues."""
    console = console_for(json)
    options = {
        "recipe": recipe,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_experts": 0 if dense and num_experts is None else num_experts,
        "top_k": top_k,
        "d_ff": d_ff,
        "capacity_factor": capacity_factor,
        "eval_capacity_factor": eval_capacity_factor,
        "context": context,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "seed": seed,
        "checkpoint_every": checkpoint_every,
        "device": device,
        "dtype": dtype,
    }
    given = {name: value for name, value in options.items() if value is not None}
    with ExitStack() as held:
        with refusals():
            paths = [_absolute(path) for path in text or []]
            if recipe is not None:
                given["recipe"] = find(recipe).name  # with the absolute path, if it is a file
            if dense and num_experts:
                raise ValueError(f"--dense has no experts, but --num-experts is {num_experts}")
            if from_step is not None and not resume:
                raise ValueError("--from-step needs --resume")
            if resume:
                if out is None:
                    raise ValueError("--resume needs --out runs/NAME, the run to continue")
                run, trainer = _resumed(held.enter_context(existing_run(out)), given, paths, from_step)
                console.print(f"Continuing after step {trainer.completed} of {trainer.config.steps}.")
            else:
                model_config, training_config = _configurations(given)
                corpus = load_corpus(paths, model_config.context)
                _print_left_out(console, corpus)
                trainer = Trainer(model_config, training_config, corpus)
                folder = out or next_free(Path("runs") / ("dense" if dense else model_config.recipe.rpartition(":")[2]))
                run = held.enter_context(new_run(folder, model_config, training_config, paths))
        _print_start(console, run, trainer)
        label = "MoE" if run.model_config.num_experts else "dense"
        summary = run_training(run, trainer, console, label=label)
        figures = save_run_figures(run, summary)
    if json:
        print_json(summary)
        return
    console.print(f"Validation loss {summary['val_loss']:.3f} nats/byte = {summary['val_bits_per_byte']:.3f} bits/byte")
    print_files(console, "Figures", figures)
    print_title(console, "Next")
    print_command(console, "generate", run.folder, "The ")


def _absolute(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError(f"--text {path!r} is not a path")
    return os.path.realpath(path)


def _configurations(given: dict[str, Any]) -> tuple[ModelConfig, TrainingConfig]:
    """The presets with what the user gave."""
    model = {name: value for name, value in given.items() if name not in _TRAINING | _RECIPE}
    settings = {name: value for name, value in given.items() if name in _RECIPE}
    if settings.get("capacity_factor") == 0 and _may_be_unlimited(given.get("recipe", ModelConfig.recipe)):
        settings["capacity_factor"] = None
    training = {name: value for name, value in given.items() if name in _TRAINING}
    return presets.model(settings, **model), presets.training(**training)


def _may_be_unlimited(recipe: str) -> bool:
    """Whether a recipe works without a capacity: where experts choose, it does not."""
    return get_type_hints(find(recipe).build).get("capacity_factor") is not float


def _resumed(run: Run, given: dict[str, Any], paths: list[str], from_step: int | None) -> tuple[Run, Trainer]:
    """The run as it continues, and its trainer. ValueError if it was configured differently from what was given."""
    _require_same(run, given, paths)
    step = run.newest_step() if from_step is None else from_step  # None: it ended before its first checkpoint
    if step is not None:
        run.verified(step)  # before a model of its configuration is allocated
    run = run.with_steps(given.get("steps", run.training_config.steps))
    if run.training_config.steps < (step or 0):
        raise ValueError(f"--steps {run.training_config.steps} is less than the {step} completed in {run.folder}")
    twin = run.dense_twin()
    if twin is not None:
        twin.summary(), twin.history()  # the results contain them; refused now if they are damaged
    config = replace(run.training_config, device=given.get("device", run.training_config.device))
    trainer = Trainer(run.model_config, config, run.corpus())
    if step is None:
        run.rewind(0)
    else:
        trainer.resume(run, step)
    run.write_config()
    return run, trainer


def _require_same(run: Run, given: dict[str, Any], paths: list[str]) -> None:
    published = find(run.model_config.recipe)
    stored = published.settings | dict(published.small) | dict(run.model_config.recipe_settings)
    stored |= run.model_config.to_json() | asdict(run.training_config)
    if "capacity_factor" in stored:
        stored["capacity_factor"] = stored["capacity_factor"] or 0
    conflicts = [
        f"--{name.replace('_', '-')} {value} (the run has {stored.get(name)})"
        for name, value in given.items()
        if value != stored.get(name) and name not in ("device", "steps")
    ]
    if paths and tuple(paths) != run.text:
        has = " ".join(run.text) or "the built-in text"
        conflicts.append(f"--text {' '.join(paths)} (the run has {has})")
    if conflicts:
        raise ValueError(f"{run.folder} was configured differently: {', '.join(conflicts)}; leave that out")


def _print_left_out(console: Console, corpus: Corpus) -> None:
    """What of the user's folders was read, and what was not, by reason."""
    for domain in corpus.domains:
        size = domain.train.size + domain.validation.size
        if domain.left_out:
            lost = sum(each.size for each in domain.left_out)
            of = f" ({lost:,} bytes)" if lost else ""
            _say(console, f"{one_line(domain.name)}: {domain.files} files, {size:,} bytes; left out{of}:")
        for reason in dict.fromkeys(each.reason for each in domain.left_out):
            paths = [one_line(each.path) for each in domain.left_out if each.reason == reason]
            _say(
                console,
                f"  {reason}: {', '.join(paths[:_LISTED])}"
                + (f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""),
            )


def _print_start(console: Console, run: Run, trainer: Trainer) -> None:
    model = trainer.model
    domains = ", ".join(f"{one_line(d.name)} ({d.train.size:,} bytes)" for d in trainer.corpus.domains)
    _say(
        console,
        f"{one_line(run.folder)}: {model.num_parameters():,} parameters, {model.active_parameters():,} active per "
        f"token; domains {domains}",
    )
    config = run.model_config
    if (
        0 < config.num_experts <= _MOST_PROBED
        and not gradient_paths(config.layer_recipe, num_experts=config.num_experts).task_reaches_router
    ):
        note(
            f"no gradient of the task reaches the router of {config.recipe} with these settings: what it chooses "
            "does not learn from the loss"
        )


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, soft_wrap=True)
