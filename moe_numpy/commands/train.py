"""``python -m moe_numpy train``: train a new or a published model on text, or continue a run."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from ..models import ModelConfig
from ..moe.recipes import find
from ..parallel import Communicator
from ..pretrained import PublishedConfig, PublishedTokenizer, TensorFiles, is_published
from ..training import Run, Trainer, TrainingConfig, load_corpus, presets
from ..training.pictures import Pictures, digits
from ..training.ranks import Ranks
from ..training.runs import next_free
from ..training.user_text import BUILT_IN
from .figures import save_run_figures
from .job import console_of, on_ranks
from .output import (
    JsonOption,
    console_for,
    given_path,
    print_command,
    print_files,
    print_json,
    print_title,
    refusals,
    with_default,
)
from .picture_tables import print_modalities, print_pictures
from .resuming import option, resumed
from .run_training import existing_run, new_run, run_training
from .starting_ranks import start_ranks, tell_run
from .training_start import print_left_out, print_start

_TRAINING = {
    "steps", "batch_size", "accumulate", "learning_rate", "seed", "checkpoint_every", "device", "dtype", "freeze",
    "parts", "capacity_scope", "balance_scope", "rebalance_every", "places", "deduplicate", "top_k_from",
    "capacity_from", "split_every", "split_below",
}  # fmt: skip
_PARTS = 4  # of a batch in the deterministic mode
_RECIPE = {"top_k", "capacity_factor", "eval_capacity_factor", "pools"}


def _model(help: str, default: object) -> Any:
    return typer.Option(help=with_default(help, default), rich_help_panel="Model")


def _parallel(help: str, default: object) -> Any:
    return typer.Option(help=with_default(help, default), rich_help_panel="Several ranks")


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
    pools: Annotated[
        str | None,
        _model(
            "separate, mixed or shared: which experts text and pictures have; for the recipe multimodal.", "separate"
        ),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="No experts: one network, top-k times as wide.", rich_help_panel="Model"),
    ] = False,
    context: Annotated[int | None, _model("Longest sequence, in tokens.", ModelConfig.context)] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=given_path,
            metavar="PATH",
            help="Run folder, or a published model's folder, to train further in a new run, in float32; the tokens are "
            "bytes, or those of the published tokenizer.",
            rich_help_panel="Model",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Parameters to leave as they are, such as 'layers.*.attention.*', or experts with their rows of the "
            "router, such as 0:3 or '*:0-7'; repeatable.",
            rich_help_panel="Training",
        ),
    ] = None,
    top_k_from: Annotated[
        int | None, _training("Experts per byte at first; they fall to --top-k over the first half.", "--top-k")
    ] = None,
    capacity_from: Annotated[float | None, _training("Likewise of --capacity-factor.", "--capacity-factor")] = None,
    split_every: Annotated[
        int | None, _training("Steps after which idle experts become copies of loaded ones; 0: never.", 0)
    ] = None,
    split_below: Annotated[
        float | None, _training("Idle is less than this part of the fair share.", TrainingConfig.split_below)
    ] = None,
    text: Annotated[
        list[str] | None,
        _training(
            f"File or folder, one domain each, or {BUILT_IN}; repeatable.", "built-in text; with --from that of the run"
        ),
    ] = None,
    steps: Annotated[
        int | None, _training("Optimizer steps in all; with --resume, of a longer run.", TrainingConfig.steps)
    ] = None,
    batch_size: Annotated[int | None, _training("Sequences per pass.", TrainingConfig.batch_size)] = None,
    accumulate: Annotated[int | None, _training("Passes per step.", TrainingConfig.accumulate)] = None,
    learning_rate: Annotated[
        float | None,
        _training(
            "Peak learning rate.",
            f"{TrainingConfig.learning_rate:g}; with --from that of the run, or "
            f"{presets.CONTINUED_LEARNING_RATE:g} for a published model",
        ),
    ] = None,
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
            parser=given_path,
            metavar="PATH",
            help=with_default("Run folder.", "runs/RECIPE, or of --from the name; the next that is free"),
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, bit for bit.")] = False,
    from_step: Annotated[
        int | None, typer.Option(help=with_default("With --resume: the checkpoint to continue from.", "the newest"))
    ] = None,
    ranks: Annotated[
        int | None,
        _parallel(
            "Processes that share the experts and the batch, on cuda with a GPU each; starts them.",
            "those of mpiexec, or 1",
        ),
    ] = None,
    experts_across: Annotated[
        int | None,
        _parallel("Over how many ranks the experts are spread; the next ranks have them again.", "all ranks"),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same bits on any number of ranks: each batch is computed in --parts parts, wherever they are.",
            rich_help_panel="Several ranks",
        ),
    ] = False,
    parts: Annotated[int | None, _parallel("With --deterministic: parts of a batch.", _PARTS)] = None,
    capacity_scope: Annotated[
        str | None,
        _parallel("global: places as in one process; rank: each rank's tokens have their own.", "global"),
    ] = None,
    rebalance_every: Annotated[
        int | None, _parallel("Steps after which experts move to other ranks by their load; 0: never.", 0)
    ] = None,
    places: Annotated[
        int | None, _parallel("The most experts on a rank then; more than needed make replicas.", "as needed")
    ] = None,
    balance_scope: Annotated[
        str | None, _parallel("global: losses of the whole batch; local: the mean of the ranks'.", "global")
    ] = None,
    deduplicate: Annotated[
        str | None,
        _parallel(
            "exact: a row travels once to each rank, with the same bits; sums: answers and gradients are added up "
            "before they travel too.",
            "none",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Train a model on the built-in text or your own; Ctrl-C and SIGTERM save, --resume continues.

    --from begins a new run with the weights of another run or of a published model. Its configuration decides what the
    model is; the optimizer starts anew.
    """
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
        "pools": pools,
        "context": context,
        "steps": steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "seed": seed,
        "checkpoint_every": checkpoint_every,
        "device": device,
        "dtype": dtype,
        "freeze": tuple(freeze) if freeze else None,
        "parts": (parts or _PARTS) if deterministic else None,
        "top_k_from": top_k_from,
        "capacity_from": capacity_from,
        "split_every": split_every,
        "split_below": split_below,
        "capacity_scope": capacity_scope,
        "balance_scope": balance_scope,
        "rebalance_every": rebalance_every,
        "places": places,
        "deduplicate": deduplicate,
    }
    given = {name: value for name, value in options.items() if value is not None}

    def num_parts() -> int | None:
        with refusals():
            if parts is not None and not deterministic:
                raise ValueError("--parts needs --deterministic")
            if recipe is not None:
                given["recipe"] = find(recipe).name  # with the absolute path, if it is a file
            if dense and num_experts:
                raise ValueError(f"--dense has no experts, but --num-experts is {num_experts}")
            if from_step is not None and not resume:
                raise ValueError("--from-step needs --resume")
            if resume and out is None:
                raise ValueError("--resume needs --out runs/NAME, the run to continue")
            found = (parts or _PARTS) if deterministic else None
            if resume and out is not None:
                found = Run.open(out).training_config.parts
            if found is not None and where() == "cuda":
                raise ValueError("--deterministic needs --device cpu: on cuda, ranks have a GPU each and no parts")
            return found

    def where() -> str:
        return _device(device, out if resume else None)

    def checked_device() -> str:
        num_parts()
        with refusals():
            config = Run.open(out).training_config if resume and out is not None else TrainingConfig()
            size = batch_size or config.batch_size
            if ranks is not None and ranks > size:
                raise ValueError(f"--ranks must be at most the sequences of a batch, {size}, got {ranks}")
            return where()

    with refusals():
        start_ranks(ranks, checked_device)

    def on_rank(communicator: Communicator) -> tuple[Run, dict[str, Any], list[Path]]:
        own_console = console_of(communicator, console)
        with ExitStack() as held:
            with refusals():
                paths = [_absolute(path) for path in text or []]
                of_ranks = Ranks(communicator, experts_across=experts_across)
                if resume:
                    assert out is not None
                    run, trainer = _resumed(held, out, given, paths, source, from_step, of_ranks, own_console)
                else:
                    run, trainer = _started(held, out, given, paths, source, dense, of_ranks, own_console)
            if of_ranks.is_first:
                tell_run(run.folder)
            print_start(own_console, run, trainer)
            label = "MoE" if run.model_config.num_experts else "dense"
            summary = run_training(run, trainer, own_console, label=label)
            figures = save_run_figures(run, summary) if of_ranks.is_first else []
        return run, summary, figures

    others = {"resume": resume, "out": out, "from_step": from_step, "from": source, "text": text, "dense": dense}
    asked = {option(name): value for name, value in (options | others | {"experts_across": experts_across}).items()}
    run, summary, figures = on_ranks(on_rank, num_parts, asked, where)
    if not summary:  # of another rank
        return
    if json:
        print_json(summary)
        return
    console.print(
        f"Validation loss {summary['val_loss']:.3f} nats/{summary['unit']} = "
        f"{summary['val_bits_per_byte']:.3f} bits/byte"
    )
    if "pictures" in summary:
        console.print()
        print_pictures(console, summary["pictures"])
        print_modalities(console, summary["pictures"], summary["sparse_layers"], summary["sparse_layers"])
    print_files(console, "Figures", figures)
    print_title(console, "Next")
    print_command(console, "generate", run.folder, "The ")
    if run.is_published:
        print_command(console, "convert", run.folder, f"{run.folder}-published")


def _resumed(
    held: ExitStack,
    folder: Path,
    given: dict[str, Any],
    paths: list[str],
    source: Path | None,
    from_step: int | None,
    ranks: Ranks,
    console: Console,
) -> tuple[Run, Trainer]:
    """A run to continue, which the first rank has locked, and its trainer."""
    first = held.enter_context(existing_run(folder)) if ranks.is_first else None
    ranks.told("locked")
    with console.status("Reading the text and the model ..."):
        run, trainer = resumed(first or Run.open(folder), given, paths, source, from_step, ranks)
    console.print(f"Continuing after step {trainer.completed} of {trainer.config.steps}.")
    return run, trainer


def _started(
    held: ExitStack,
    out: Path | None,
    given: dict[str, Any],
    paths: list[str],
    source: Path | None,
    dense: bool,
    ranks: Ranks,
    console: Console,
) -> tuple[Run, Trainer]:
    """A new run, whose folder the first rank makes, and its trainer."""
    model_config: ModelConfig | PublishedConfig
    groups: Mapping[str, tuple[str, ...]] = {}
    folder = None if source is None else Path(os.path.realpath(source))
    if folder is not None and not is_published(folder):
        if not (folder / "config.json").is_file():
            raise ValueError(f"--from {folder} is neither a run nor a published model: it has no config.json")
        begun = Run.open(folder)
        model_config, training_config = _of_run(begun, given, dense)
        name, paths, groups = folder.name, paths or list(begun.text), begun.groups
        with console.status("Reading the text and the model ..."):
            corpus = load_corpus(paths, model_config.context, pictures=_pictures(training_config))
            trainer = Trainer(model_config, training_config, corpus, folder, ranks)
        print_left_out(console, corpus)
    elif folder is not None:
        model_config, training_config = _continuation(folder, given, dense)
        name = folder.name
        with console.status("Reading the text and the model ..."):
            corpus = load_corpus(paths, model_config.context, PublishedTokenizer.open(folder).encode_plain)
            trainer = Trainer(model_config, training_config, corpus, folder, ranks)
        print_left_out(console, corpus)
    else:
        model_config, training_config = _configurations(given)
        name = "dense" if dense else model_config.recipe.rpartition(":")[2]
        corpus = load_corpus(paths, model_config.context, pictures=_pictures(training_config))
        print_left_out(console, corpus)
        trainer = Trainer(model_config, training_config, corpus, ranks=ranks)
    if ranks.is_first:
        to = out or next_free(Path("runs") / name)
        settings = model_config, training_config, paths, None if folder is None else str(folder), groups
        run = held.enter_context(new_run(to, *settings))
    made = Path(ranks.told(str(run.folder) if ranks.is_first else ""))
    return (run if ranks.is_first else Run.open(made)), trainer


def _pictures(config: TrainingConfig) -> Pictures | None:
    return digits() if config.image_batch_size else None


def _device(given: str | None, run: Path | None) -> str:
    """Where a run computes: where the user said, or the run that is continued, or by default."""
    if given is not None:
        return given
    return TrainingConfig.device if run is None else Run.open(run).training_config.device


def _absolute(path: str) -> str:
    if not path or "\0" in path:
        raise ValueError(f"--text {path!r} is not a path")
    return path if path == BUILT_IN else os.path.realpath(path)


def _configurations(given: dict[str, Any]) -> tuple[ModelConfig, TrainingConfig]:
    """The presets with what the user gave."""
    model = {name: value for name, value in given.items() if name not in _TRAINING | _RECIPE}
    settings = {name: value for name, value in given.items() if name in _RECIPE}
    if settings.get("capacity_factor") == 0 and _may_be_unlimited(given.get("recipe", ModelConfig.recipe)):
        settings["capacity_factor"] = None
    training = {name: value for name, value in given.items() if name in _TRAINING}
    of_recipe = presets.with_pictures if presets.has_pictures(given.get("recipe")) else presets.training
    return presets.model(settings, **model), of_recipe(**training)


def _continuation(folder: Path, given: dict[str, Any], dense: bool) -> tuple[PublishedConfig, TrainingConfig]:
    """The settings of a published model with what the user gave. ValueError for what the model itself decides."""
    _require_of_training(given, dense, "published")
    published = PublishedConfig.read(folder, TensorFiles.open(folder))
    window = given.get("context", min(published.context, presets.CONTINUED_CONTEXT))
    if not 1 <= window <= published.context:
        raise ValueError(f"context must be between 1 and {published.context}, that of {folder}, got {window}")
    training = {name: value for name, value in given.items() if name in _TRAINING}
    return replace(published, window=window), presets.continued(**training)


def _of_run(run: Run, given: dict[str, Any], dense: bool) -> tuple[ModelConfig, TrainingConfig]:
    """The settings of a model that was trained here with what the user gave. ValueError likewise."""
    _require_of_training(given, dense, f"in {run.folder}")
    config = run.model_config
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"--from {run.folder} began with a published model: continue it with --resume --out {run.folder}, or write "
            "it with convert and begin with that"
        )
    context = given.get("context", config.context)
    if not 1 <= context <= config.context:
        raise ValueError(f"context must be between 1 and {config.context}, that of {run.folder}, got {context}")
    training = {name: value for name, value in given.items() if name in _TRAINING}
    kept = {"learning_rate", "image_batch_size"}
    return replace(config, context=context), presets.training(
        **{name: getattr(run.training_config, name) for name in kept} | training
    )


def _require_of_training(given: dict[str, Any], dense: bool, where: str) -> None:
    names = [option(name) for name in given if name not in _TRAINING | {"context"}]
    if names:
        shown = ", ".join("--dense" if dense and name == "--num-experts" else name for name in names)
        raise ValueError(f"{shown}: with --from, the model is the one that is {where}; leave that out")


def _may_be_unlimited(recipe: str) -> bool:
    """Whether a recipe works without a capacity: where experts choose, it does not."""
    return get_type_hints(find(recipe).build).get("capacity_factor") is not float
