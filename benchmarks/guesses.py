"""When guessing tokens pays for a Mixture of Experts: python -m benchmarks.guesses RUN ... [--json]

A call that reads one token and g guesses gives one token, and one more for each guess that is right:

    speed-up = tokens per call · time of a call with one token / time of a call with 1 + g

A dense model reads all its weights in every call, so that guesses cost little. In a sparse one, more tokens meet more
experts: E (1 - (1 - k/E)^(1 + g)) in each layer, if they choose independently.

Counted are the experts that neighbouring tokens of held-out text meet, in runs that were trained here, and the tokens
that a call gives when a text is written with guesses, which depends on the text alone. Timed are calls of a sparse and
a dense model with random weights and the same active parameters, beside the bytes of weights that they read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from moe_numpy.commands.opening import open_model
from moe_numpy.commands.output import JsonOption, console_for, plain_table, print_json, print_title, refusals, refuse
from moe_numpy.formats import FORMATS, quantise
from moe_numpy.inference import Decoder, Guesses, PromptLookup, guesses_after, write
from moe_numpy.instruments.neighbours import experts_met, met_if_independent
from moe_numpy.instruments.routed_text import RoutedText, TextWindow, route_text
from moe_numpy.models import Transformer
from moe_numpy.models.transformer_config import Dense, Layer, Sparse
from moe_numpy.plots import save
from moe_numpy.plots.guesses import when_guesses_pay
from moe_numpy.pretrained import PublishedConfig
from moe_numpy.training import load_corpus

from .store import SETTINGS
from .timing import in_turn

GUESSES = (0, 1, 2, 4, 8)
_TOKENS, _WINDOW, _BATCH = 12_000, 128, 16  # of held-out text
_WORDS = 6_000
_PROMPT, _PIECES = 64, 12
_OWN_TEXT = 400  # tokens that a run writes
_SPREAD = 60.0  # times larger embeddings: neighbours then meet as many experts as in a trained model of these sizes

Row = dict[str, Any]


def main(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, whose experts are counted.")],
    layers: Annotated[int, typer.Option(min=1, help="Of the models that are timed.")] = 12,
    number_format: Annotated[
        str, typer.Option("--format", help=f"Of their weights: {', '.join(FORMATS)}.")
    ] = "bfloat16",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each call; the median counts.")] = 9,
    seconds: Annotated[float, typer.Option(min=0, help="For the calls of one model.")] = 60.0,
    figure: Annotated[Path | None, typer.Option(help="Draw the first run and the times here.")] = None,
    json: JsonOption = False,
) -> None:
    """Count, simulate and measure; print tables."""
    console = console_for(json)
    if number_format not in FORMATS:
        refuse(f"--format must be one of {', '.join(FORMATS)}, got {number_format!r}")
    document: dict[str, Any] = {"guesses": list(GUESSES), "met": [], "own_text": [], "texts": [], "times": []}
    for folder in runs:
        with refusals(), console.status(f"Reading held-out text with {folder} ..."):
            opened = open_model(folder)
            document["met"].append({"run": folder.name, **met_in(opened.model)})
        with console.status(f"Writing with {folder} ..."):
            document["own_text"] += own_texts(folder.name, opened.model)
    with console.status("Guessing texts ..."):
        document["texts"] = [
            {"text": name, "adaptive": adaptive, **_columns(confirmed(*text, g, adaptive=adaptive) for g in GUESSES)}
            for name, text in texts().items()
            for adaptive in (False, True)
        ]
    for name, model in timed_models(layers):
        with console.status(f"Timing the {name} model ...") if console.is_terminal else nullcontext():
            document["times"].append({"model": name, **times(model, number_format, rounds, seconds)})
    document["speed_up"] = list(speed_ups(document))
    if figure is not None:
        save(drawn(document), figure)
    if json:
        print_json(document)
    else:
        print_document(document, console)


def met_in(model: Transformer) -> Row:
    """Experts met per layer, counted and computed, over held-out text of all domains."""
    length = min(_WINDOW, model.context)
    windows = [
        TextWindow(np.asarray(domain.validation[start : start + length], np.int64), i)
        for i, domain in enumerate(load_corpus((), length).domains)
        for start in range(0, _TOKENS // 3 - length + 1, length)
    ]
    routed = route_text(model, windows, _BATCH)
    load, per_token = routed.load, routed.load.sum() / len(routed) / len(routed.layers)
    num = routed.num_experts
    return {
        "experts": num,
        "per_token": float(per_token),
        "equal_loads": [num * (1 - (1 - per_token / num) ** (1 + g)) for g in GUESSES],
        "independent": [float(met_if_independent(load, len(routed), 1 + g).mean()) for g in GUESSES],
        "neighbours": [float(experts_met(routed, 1 + g).mean()) for g in GUESSES],
    }


def own_texts(name: str, model: Transformer) -> Iterator[Row]:
    """Greedy text of a run, written with each number of guesses."""
    decoder = Decoder(model)
    for domain, prompt in (("prose", b"The "), ("code", b"def "), ("arithmetic", b"12 + 7 = ")):
        start, per_call, plain = np.frombuffer(prompt, np.uint8).astype(np.int64), [], None
        for g in GUESSES:
            counted = Guesses()
            said = list(
                write(decoder, start, _OWN_TEXT, rng=np.random.default_rng(0), temperature=0, guess=g, guesses=counted)
            )
            plain = said if plain is None else plain
            if said != plain:
                refuse(f"{name}: {g} guesses changed the text after {prompt.decode()!r}")
            per_call.append(len(said) / counted.calls)
        yield {"run": name, "text": domain, "tokens_per_call": per_call}


def texts() -> dict[str, tuple[list[int], int]]:
    """Texts as numbers of words, spaces and signs, and where guessing begins."""
    ids: dict[str, int] = {}

    def words(text: str) -> list[int]:
        return [ids.setdefault(word, len(ids)) for word in re.findall(r"\w+|\s+|[^\w\s]", text)]

    by_domain = {
        domain.name: bytes(domain.validation[: 8 * _WORDS]).decode(errors="ignore")
        for domain in load_corpus((), _WINDOW).domains
    }
    code = by_domain["code"][: 2 * _WORDS]
    edited = re.sub(r"\bself\b", "this", code)
    shuffled = np.random.default_rng(0).permutation(words(by_domain["prose"])[:_WORDS]).tolist()
    made = {name: (words(by_domain[name])[:_WORDS], 1) for name in ("prose", "code")}
    made["words of the prose in random order"] = shuffled, 1
    made["code after itself, one name changed"] = words(code) + words(edited), len(words(code))
    return made


def confirmed(ids: Sequence[int], start: int, most: int, *, adaptive: bool) -> Row:
    """If a model writes these tokens: how many a call gives, the share of right guesses, and calls by their guesses."""
    lookup, at, right, guessed, calls = PromptLookup(ids[:start]), start, 0, 0, [0] * (1 + max(GUESSES))
    same = 0
    while at < len(ids):
        wanted = min(most, guesses_after(same)) if adaptive else most
        guess = lookup.guess(min(wanted, len(ids) - at - 1))
        same = next((i for i, token in enumerate(guess) if token != ids[at + i]), len(guess))
        calls[len(guess)] += 1
        guessed, right = guessed + len(guess), right + same
        for token in ids[at : at + same + 1]:
            lookup.append(token)
        at += same + 1
    return {"tokens_per_call": (len(ids) - start) / sum(calls), "right": right / max(guessed, 1), "calls": calls}


def timed_models(layers: int) -> Iterator[tuple[str, Transformer]]:
    """A sparse model, and the dense one with its active parameters."""
    config = PublishedConfig(SETTINGS | {"num_hidden_layers": layers}).transformer
    twin = replace(config, layers=tuple(map(_dense, config.layers)))
    for name, each in (("sparse", config), ("dense", twin)):
        model = Transformer(each, rng=np.random.default_rng(0)).eval()
        model.embedding.weight.data *= _SPREAD
        yield name, model


def _dense(layer: Layer) -> Layer:
    part = layer.feed_forward
    if not isinstance(part, Sparse):
        return layer
    return replace(layer, feed_forward=Dense(SETTINGS["num_experts_per_tok"] * part.d_ff))


def times(model: Transformer, number_format: str, rounds: int, seconds: float) -> Row:
    """Calls with each number of guesses: experts met per layer, bytes of weights read, milliseconds."""
    rng, size = np.random.default_rng(1), 1 + max(GUESSES)
    prompt = rng.integers(0, model.vocab_size, _PROMPT)
    pieces = rng.integers(0, model.vocab_size, (_PIECES, size))
    met, fixed, expert = [0.0] * len(GUESSES), 0.0, 0.0
    if model.routed_layers:
        windows = [TextWindow(np.concatenate([prompt, piece]), 0, _PROMPT) for piece in pieces]
        met = [_met_first(route_text(model, windows, 1), 1 + g, size) for g in GUESSES]
    bits = 8 * quantise(np.ones((32, 1024), np.float32), number_format).nbytes / (32 * 1024)
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            expert += parameter.data[0].size * bits / 8 / len(model.routed_layers)
        elif parameter.data.ndim > 1:
            fixed += parameter.data.size * bits / 8
    decoder = Decoder(model, number_format, number_format)
    sequence = decoder.new_sequence()
    decoder.read((sequence, prompt))

    def call(num: int, coming: Iterator[Any]) -> None:
        decoder.read((sequence, next(coming)[:num]), every=True)
        sequence.cut(_PROMPT)

    calls = {str(g): partial(call, 1 + g, cycle(pieces)) for g in GUESSES}
    ms = in_turn(calls, rounds, seconds)
    return {
        "format": number_format,
        "met": met,
        "bytes": [fixed + len(model.routed_layers) * each * expert for each in met],
        "ms": list(ms.values()),
    }


def _met_first(routed: RoutedText, num: int, size: int) -> float:
    """Experts met by the first ``num`` tokens of each piece, per layer."""
    met = [
        len(np.unique(c.token[c.token % size < num] // size * routed.num_experts + c.expert[c.token % size < num]))
        for c in routed.choices
    ]
    return float(np.mean(met)) / (len(routed) // size)


def speed_ups(document: Mapping[str, Any]) -> Iterator[Row]:
    """Of each text with each model: predicted from bytes, and with the measured times."""
    for text in document["texts"]:
        for of in document["times"]:
            row = {"text": text["text"], "adaptive": text["adaptive"], "model": of["model"]}
            for how, cost in (("predicted", of["bytes"]), ("measured", of["ms"])):
                by_guesses = np.interp(np.arange(1 + max(GUESSES)), GUESSES, cost) / cost[0]
                row[how] = [
                    sum(calls) * per_call / float(np.dot(calls, by_guesses))
                    for calls, per_call in zip(text["calls"], text["tokens_per_call"], strict=True)
                ]
            yield row


def _columns(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """One list per name."""
    of = list(rows)
    return {name: [row[name] for row in of] for name in of[0]}


def drawn(document: Mapping[str, Any]) -> Any:
    """The figure: the first run, and two texts."""
    met, by_text = (
        document["met"][0],
        {text["text"]: text["tokens_per_call"] for text in document["texts"] if not text["adaptive"]},
    )
    return when_guesses_pay(
        np.array(GUESSES),
        met={
            f"{met['experts']} experts, equal loads": np.array(met["equal_loads"]),
            "independent tokens": np.array(met["independent"]),
            "neighbouring tokens": np.array(met["neighbours"]),
        },
        cost={of["model"]: np.array(of["ms"]) / of["ms"][0] for of in document["times"]},
        tokens={name: np.array(by_text[name]) for name in ("code after itself, one name changed", "prose")},
    )


def print_document(document: Mapping[str, Any], console: Console) -> None:
    """Tables with one column per number of guesses."""
    for of in document["met"]:
        title = f"{of['run']}: experts met per layer, of {of['experts']}, {of['per_token']:.3g} per token"
        _table(console, title, {name: of[name] for name in ("equal_loads", "independent", "neighbours")})
    own = {f"{of['run']}, {of['text']}": of["tokens_per_call"] for of in document["own_text"]}
    _table(console, "Tokens per call: greedy text of the runs", own)
    for what, title in (("tokens_per_call", "Tokens per call: given texts"), ("right", "Guesses that are right")):
        _table(console, title, {_name(text): text[what] for text in document["texts"]})
    for of in document["times"]:
        rows = {
            "experts met": of["met"],
            "bytes, one token = 1": [each / of["bytes"][0] for each in of["bytes"]],
            "time, one token = 1": [each / of["ms"][0] for each in of["ms"]],
            "milliseconds": of["ms"],
        }
        _table(console, f"A call of the {of['model']} model, {of['format']}", rows)
    for how in ("predicted", "measured"):
        _table(console, f"Speed-up, {how}", {f"{_name(of)}, {of['model']}": of[how] for of in document["speed_up"]})


def _name(of: Mapping[str, Any]) -> str:
    return of["text"] + (", at most so many" if of["adaptive"] else "")


def _table(console: Console, title: str, rows: Mapping[str, Sequence[float]]) -> None:
    print_title(console, title)
    table = plain_table()
    table.add_column("guesses")
    for g in GUESSES:
        table.add_column(str(g), justify="right")
    for name, values in rows.items():
        table.add_row(name.replace("_", " "), *(f"{value:.2f}" for value in values))
    console.print(table)
    console.print()


if __name__ == "__main__":
    typer.run(main)
