"""Time to the first token of requests with a common beginning: python -m benchmarks.prefixes [--json]

Each request is a prompt of which the first tokens are the same for all. With a cache they are read once, by the first
request; the logits are compared. The model has random weights, 32 experts per layer and 4 per token.
"""

import time
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from moe_numpy.commands.output import JsonOption, console_for, print_json
from moe_numpy.inference import Decoder, PrefixCache
from moe_numpy.models import Transformer
from moe_numpy.pretrained import PublishedConfig

from .store import SETTINGS


def main(
    shared: Annotated[int, typer.Option(min=1, help="Tokens that all prompts begin with.")] = 512,
    own: Annotated[int, typer.Option(min=1, help="Tokens of each prompt after them.")] = 16,
    requests: Annotated[int, typer.Option(min=2, help="How many.")] = 8,
    layers: Annotated[int, typer.Option(min=1, help="Of the model.")] = 12,
    number_format: Annotated[str, typer.Option("--format", help="Of its weights.")] = "bfloat16",
    json: JsonOption = False,
) -> None:
    """Print seconds to the first token, with and without a cache."""
    console = console_for(json)
    with console.status("Making a model ..."):
        settings = SETTINGS | {"num_hidden_layers": layers}
        model = Transformer(PublishedConfig(settings), rng=np.random.default_rng(0)).eval()
        decoder = Decoder(model, number_format, number_format)
    rng = np.random.default_rng(1)
    stem = rng.integers(0, model.vocab_size, shared)
    prompts = [np.concatenate([stem, rng.integers(0, model.vocab_size, own)]) for _ in range(requests)]
    decoder.read((decoder.new_sequence(), prompts[0][:64]))  # loops are compiled
    known = PrefixCache(decoder, 2**40)
    cold, warm, same = [], [], True
    for i, prompt in enumerate(prompts):
        with console.status(f"Request {i + 1} of {requests} ..."):
            began = time.perf_counter()
            expected = decoder.read((decoder.new_sequence(), prompt))
            cold.append(time.perf_counter() - began)
            began = time.perf_counter()
            logits = known.read(prompt)[1]
            warm.append(time.perf_counter() - began)
            same &= bool(np.array_equal(logits, expected))
    began = time.perf_counter()
    begun = known.begin(prompts[0])
    seconds = time.perf_counter() - began
    document: dict[str, Any] = {
        "shared": shared,
        "own": own,
        "requests": requests,
        "format": number_format,
        "same_bits": same,
        "reused": known.counts.reused - begun.length,
        "tokens": known.counts.tokens - len(prompts[0]),
        "without_s": median(cold),
        "first_with_s": warm[0],
        "others_with_s": median(warm[1:]),
        "all_without_s": sum(cold),
        "all_with_s": sum(warm),
        "beginning_s": seconds,
        "cache_mb": known.nbytes / 1e6,
    }
    if json:
        print_json(document)
        return
    for name, value in document.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        console.print(f"{name.replace('_', ' '):16} {shown}")


if __name__ == "__main__":
    typer.run(main)
