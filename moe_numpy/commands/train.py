"""``python -m moe_numpy train``: train a model on the built-in text or your own, or continue a run."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models import ModelConfig
from ..moe.recipes import find
from ..training import Run, Trainer, TrainingConfig, load_corpus, presets
from ..training.runs import next_free
from .figures import save_run_figures
from .output import (
    JsonOption,
    console_for,
    print_command,
    print_files,
    print_json,
    print_title,
    refusals,
    with_default,
)
from .run_training import run_training

_TRAINING = {"steps", "batch_size", "accumulate", "learning_rate", "seed", "checkpoint_every", "device", "dtype"}
_RECIPE = {"top_k", "capacity_factor"}


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
    dense: Annotated[
        bool,
        typer.Option("--dense", help="No experts: one network, top-k times as wide.", rich_help_panel="Model"),
    ] = False,
    context: Annotated[int | None, _model("Longest sequence, in bytes.", ModelConfig.context)] = None,
    text: Annotated[
        list[str] | None, _training("File or folder, one domain each; repeatable.", "built-in text")
    ] = None,
    steps: Annotated[int | None, _training("Optimizer steps.", TrainingConfig.steps)] = None,
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
        Path | None, typer.Option(help=with_default("Run folder.", "runs/RECIPE or the next free name"))
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, bit for bit.")] = False,
    from_step: Annotated[
        int | None, typer.Option(help=with_default("With --resume: the checkpoint to continue from.", "the newest"))
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a model on the built-in text or your own; Ctrl-C saves, --resume continues."""
    console = console_for(json)
    options = {
        "recipe": recipe,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_experts": 0 if dense and num_experts is None else num_experts,
        "top_k": top_k,
        "d_ff": d_ff,
        "capacity_factor": capacity_factor,
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
    paths = [str(Path(path).resolve()) for path in text or []]
    with refusals():
        if recipe is not None:
            given["recipe"] = find(recipe).name  # with the absolute path, if it is a file
        if dense and num_experts:
            raise ValueError(f"--dense has no experts, but --num-experts is {num_experts}")
        if from_step is not None and not resume:
            raise ValueError("--from-step needs --resume")
        if resume:
            run = _existing_run(out, given, paths)
            config = replace(run.training_config, device=device or run.training_config.device)
            trainer = Trainer(run.model_config, config, run.corpus())
            if from_step is None and run.newest_step() is None:
                run.rewind(0)  # it ended before its first checkpoint
            else:
                trainer.resume(run, from_step)
            console.print(f"Continuing after step {trainer.completed} of {trainer.config.steps}.")
        else:
            model_config, training_config = _configurations(given)
            trainer = Trainer(model_config, training_config, load_corpus(paths, model_config.context))
            folder = out or next_free(Path("runs") / ("dense" if dense else model_config.recipe.rpartition(":")[2]))
            run = Run.start(folder, model_config, training_config, paths)
    model = trainer.model
    console.print(
        f"{run.folder}: {model.num_parameters():,} parameters, {model.active_parameters():,} active per token; "
        f"domains {', '.join(f'{d.name} ({d.train.size:,} bytes)' for d in trainer.corpus.domains)}",
        markup=False,
        soft_wrap=True,
    )
    label = "MoE" if run.model_config.num_experts else "dense"
    summary = run_training(run, trainer, console, label=label)
    figures = save_run_figures(run, summary)
    if json:
        print_json(summary)
        return
    console.print(f"Validation loss {summary['val_loss']:.3f} nats/byte = {summary['val_bits_per_byte']:.3f} bits/byte")
    print_title(console, "Figures")
    print_files(console, figures)
    print_title(console, "Next")
    print_command(console, "generate", run.folder, "The ")


def _configurations(given: dict[str, Any]) -> tuple[ModelConfig, TrainingConfig]:
    """The presets with what the user gave."""
    model = {name: value for name, value in given.items() if name not in _TRAINING | _RECIPE}
    settings = {name: value for name, value in given.items() if name in _RECIPE}
    if settings.get("capacity_factor") == 0:
        settings["capacity_factor"] = None
    training = {name: value for name, value in given.items() if name in _TRAINING}
    return presets.model(settings, **model), presets.training(**training)


def _existing_run(out: Path | None, given: dict[str, Any], paths: list[str]) -> Run:
    """The run to continue. ValueError if it was configured differently from what was given."""
    if out is None:
        raise ValueError("--resume needs --out runs/NAME, the run to continue")
    run = Run.open(out)
    published = find(run.model_config.recipe)
    stored = published.settings | dict(published.small) | dict(run.model_config.recipe_settings)
    stored |= run.model_config.to_json() | asdict(run.training_config)
    if "capacity_factor" in stored:
        stored["capacity_factor"] = stored["capacity_factor"] or 0
    conflicts = [
        f"--{name.replace('_', '-')} {value} (the run has {stored.get(name)})"
        for name, value in given.items()
        if value != stored.get(name) and name != "device"
    ]
    if paths and tuple(paths) != run.text:
        has = " ".join(run.text) or "the built-in text"
        conflicts.append(f"--text {' '.join(paths)} (the run has {has})")
    if conflicts:
        raise ValueError(f"{out} was configured differently: {', '.join(conflicts)}; leave that out")
    return run
