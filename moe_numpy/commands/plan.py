"""``python -m moe_numpy plan``: what training and serving a model on many GPUs takes, on paper."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..accounting import (
    BITS,
    PUBLISHED,
    Architecture,
    architecture_of,
    architecture_of_layers,
    published,
)
from ..accounting.plan import (
    COPIES,
    RECOMPUTE,
    SCHEDULES,
    Hardware,
    Layout,
    Training,
    Types,
    imbalance,
    serving,
    shards,
    skewed_imbalance,
)
from ..files import read_json
from ..models import ModelConfig
from ..pretrained import PublishedConfig, is_published
from ..training import Run
from .output import JsonOption, console_for, print_json, refusals, with_default
from .plan_serving import print_serving, serving_document
from .plan_training import print_training, training_document
from .sizes import given_size

_LAST_STEPS = 100  # of a run's history, for the load
_CONFIG = "config.json"


def _option(panel: str, help: str, default: object = None, **more: Any) -> Any:
    return typer.Option(help=help if default is None else with_default(help, default), rich_help_panel=panel, **more)


def _layout(help: str, default: object = None, **more: Any) -> Any:
    return _option("Layout", help, default, min=1, **more)


def _type(help: str) -> Any:
    return _option("Types", help, metavar="TYPE")


def plan(
    model: Annotated[
        str, typer.Argument(help="The name of a published model, its folder or config.json, or a run folder.")
    ],
    gpus: Annotated[int, _layout("GPUs in all.", max=1_000_000)],
    nodes: Annotated[int | None, _layout("Nodes in all.", "8 GPUs in each")] = None,
    expert_parallel: Annotated[
        int | None, _layout("GPUs that share one copy of the experts.", "as many as get one each")
    ] = None,
    stages: Annotated[int, _layout("Pipeline stages.")] = 1,
    schedule: Annotated[str, _option("Layout", f"Of the pipeline: {', '.join(SCHEDULES)}.")] = "1f1b",
    context: Annotated[int, _layout("Tokens of a sequence.")] = 4096,
    sequences: Annotated[int, _layout("Sequences of a micro-batch, on one GPU.")] = 1,
    micro_batches: Annotated[int | None, _layout("Micro-batches of a step, on one GPU.", "8 a stage")] = None,
    weights: Annotated[str, _type(f"Of weights. One of {', '.join(BITS)}, as are those below.")] = "bf16",
    gradients: Annotated[str, _type("Of gradients.")] = "fp32",
    moments: Annotated[str, _type("Of the optimizer's moments.")] = "fp32",
    activations: Annotated[str, _type("Of activations kept for the backward pass.")] = "bf16",
    dispatch: Annotated[str, _type("Of rows sent to experts.")] = "bf16",
    combine: Annotated[str, _type("Of answers sent back.")] = "bf16",
    copies: Annotated[
        str, _option("Costs", f"One row for each expert, GPU or node that a token uses: {', '.join(COPIES)}.")
    ] = "node",
    node_limit: Annotated[int | None, _option("Costs", "Nodes that a token may use.", "all", min=1)] = None,
    zero_1: Annotated[bool, _option("Costs", "Copies of a weight share the optimizer's states among them.")] = True,
    recompute: Annotated[str, _option("Costs", f"In the backward pass: {', '.join(RECOMPUTE)}.")] = "none",
    overlap: Annotated[bool, _option("Costs", "Computation hides the exchange.")] = True,
    load: Annotated[
        Path | None, _option("Costs", "Run whose recorded expert loads say how uneven GPUs are.", metavar="RUN")
    ] = None,
    skew: Annotated[
        float | None, _option("Costs", "Instead: expert loads by Zipf's law with this exponent, in random order.")
    ] = None,
    peak_tflops: Annotated[float, _option("Hardware", "Of a GPU; BF16 of an H800 or H100.")] = 989.4,
    utilisation: Annotated[float, _option("Hardware", "Share of the peak in multiplications; a guess.")] = 0.5,
    intra_gbps: Annotated[float, _option("Hardware", "Gigabytes per second of a GPU within its node.")] = 160.0,
    inter_gbps: Annotated[float, _option("Hardware", "Gigabytes per second of a GPU to other nodes.")] = 50.0,
    memory: Annotated[
        int | None, _option("Hardware", "Memory of a GPU.", "80GiB", parser=given_size, metavar="SIZE")
    ] = None,
    memory_gbps: Annotated[float, _option("Hardware", "Gigabytes per second of that memory; --serve.")] = 3350.0,
    serve: Annotated[bool, typer.Option("--serve", help="Plan decoding instead of training.")] = False,
    texts: Annotated[int, _option("Serving", "Texts on each GPU; --serve.", min=1)] = 32,
    cache: Annotated[str, _option("Serving", "Type of keys and values; --serve.", metavar="TYPE")] = "bf16",
    json: JsonOption = False,
) -> None:
    """Plan a model on many GPUs, on paper: memory, all-to-all traffic, time, and what uneven experts cost.

    The default links are those of DeepSeek's H800 nodes: NVLink 160 GB/s, InfiniBand 50 GB/s per GPU (DeepSeek-V3 2024,
    section 3.2.2). docs/plan.md compares the figures with DeepSeek-V3's own.
    """
    console = console_for(json)
    with refusals():
        architecture = _architecture(model)
        if nodes is None and gpus > 8 and gpus % 8:
            raise ValueError(f"--nodes is needed, since {gpus} GPUs are no nodes of 8")
        on = nodes or max(1, gpus // 8)
        layout = (
            Layout.spread(gpus, on, architecture.num_experts, stages)
            if expert_parallel is None
            else Layout(gpus, on, expert_parallel, stages)
        )
        hardware = Hardware(peak_tflops * 1e12, utilisation, intra_gbps * 1e9, inter_gbps * 1e9)
        room = 80 << 30 if memory is None else memory
        uneven = _imbalance(architecture, layout, load, skew)
        more: dict[str, Any] = {"copies": copies, "node_limit": node_limit, "overlap": overlap, "imbalance": uneven}
        types = Types(weights, gradients, moments, activations, dispatch, combine)
        if serve:
            step = serving(
                architecture,
                layout,
                hardware,
                memory_gbps * 1e9,
                texts=texts,
                context=context,
                weights=weights,
                cache=cache,
                dispatch=dispatch,
                combine=combine,
                **more,
            )
            document = serving_document(architecture, layout, step, texts, context, uneven, room)
        else:
            training = Training(
                layout,
                micro_batches or 8 * stages,
                sequences,
                context,
                schedule,
                types,
                sharded_optimizer=zero_1,
                recompute=recompute,
                **more,
            )
            document = training_document(architecture, training, hardware, room)
    document = {"model": model, **document}
    if json:
        print_json(document)
    elif serve:
        print_serving(console, document)
    else:
        print_training(console, document)


def _architecture(model: str) -> Architecture:
    """Of a published name, a published folder or its config.json, or a run."""
    path = Path(model)
    if model.lower() in PUBLISHED or (path.name == model and not path.exists()):
        return published(model).architecture
    file = path / _CONFIG if path.is_dir() else path
    if path.is_file() or is_published(path):
        return architecture_of_layers(PublishedConfig(read_json(file, dict[str, Any]), file).transformer)
    config = Run.open(path).model_config
    return architecture_of(config) if isinstance(config, ModelConfig) else architecture_of_layers(config.transformer)


def _imbalance(a: Architecture, layout: Layout, load: Path | None, skew: float | None) -> float:
    """The fullest device's load, of the mean: of the recorded loads, of Zipf's law, or of even loads."""
    if load is not None and skew is not None:
        raise ValueError("--load and --skew both say how uneven the experts are; give one")
    if not a.num_sparse_layers:
        if load is not None or skew is not None:
            raise ValueError(f"{'--skew' if load is None else '--load'} needs a model with experts")
        return 1.0
    devices = shards(a.num_experts, layout.expert_parallel)
    if skew is not None:
        return skewed_imbalance(a.num_experts, a.top_k, skew, devices, rng=np.random.default_rng(0))
    if load is None:
        return imbalance(np.ones((1, a.num_experts)), devices)
    run = Run.open(load)
    if run.model_config.num_routes != a.num_experts:
        raise ValueError(f"{load} recorded loads of {run.model_config.num_routes} experts, not of {a.num_experts}")
    history = run.history()
    if not history:
        raise ValueError(f"{load} has recorded no step yet")
    recorded = np.array([record["expert_load"] for record in history[-_LAST_STEPS:]])
    return imbalance(recorded.reshape(-1, a.num_experts), devices)
