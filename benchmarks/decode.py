"""How fast a model reads a prompt and decodes, beside the bound that memory sets, and beside peers.

    bound = texts * bandwidth / bytes of the weights that one call reads

Those are all matrices of attention, routers and output, and the distinct experts that the tokens of one call chose,
counted in our model for the same texts. What attention keeps of earlier tokens is not counted. Bandwidth is measured in
turn with the candidates. Loading is not measured.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from moe_numpy.autodiff import no_grad
from moe_numpy.kernels import threads
from moe_numpy.models import Transformer
from moe_numpy.nn.module import Unfilled
from moe_numpy.pretrained import PublishedConfig, from_pretrained

from . import candidates, gguf_file
from .bandwidth import Memory
from .candidates import Candidate
from .decode_rows import Turns
from .peer_process import PeerError
from .random_model import write_random_model
from .weights_read import Weights, bits_of

FORMATS = ("bfloat16", "int8", "int4")
BATCHES = (1, 2, 4, 8, 16)
PROMPT, TOKENS = 128, 16
_LONGEST = PROMPT + TOKENS + 2  # some are written before the clock starts
TOLERANCE = 0.5  # of log probabilities, which differ by some 4 between unrelated models
_PEAK = 0.7  # of all memory: with more, one candidate is loaded at a time
_TOP = 5
EXACT = ("float32", "bfloat16", "F16", "grouped_mm", "eager")  # whose weights are those of the files

Opened = AbstractContextManager[tuple[Candidate, Weights]]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        settings: ``config.json`` of the model.
        peers: "llama.cpp", "transformers", or both.
        formats: of ours.
        batches: numbers of texts.

    Raises:
        ValueError: an unknown format, a setting that the family does not have, a model without experts, too short a
            context, or a family that llama.cpp is not given here.
    """

    settings: Mapping[str, Any]
    peers: Sequence[str] = ()
    formats: Sequence[str] = FORMATS
    batches: Sequence[int] = BATCHES

    def __post_init__(self) -> None:
        config = PublishedConfig(self.settings)
        if not config.num_experts or config.context < _LONGEST:
            raise ValueError(
                f"the model must have experts and a context of at least {_LONGEST} tokens, got num_experts="
                f"{config.num_experts} and context={config.context}"
            )
        self.candidates(Path())

    @cached_property
    def num_weights(self) -> int:
        """Of the model."""
        return Transformer(PublishedConfig(self.settings), rng=Unfilled(), dtype=np.float32).num_parameters()

    @property
    def in_turn(self) -> bool:
        """Whether memory holds all candidates together."""
        return sum(bits for bits, _ in self.candidates(Path()).values()) / 8 * self.num_weights < _PEAK * _physical()

    def require_room(self) -> None:
        """ValueError unless the disk holds the model, a shard more while it is written, and the GGUF files."""
        gguf = [bits for name, (bits, _) in self.candidates(Path()).items() if name.startswith("llama.cpp")]
        together = sum(gguf) if self.in_turn else max(gguf, default=0)
        place, size = Path(tempfile.gettempdir()), 2 * self.num_weights
        needed, free = size + max(min(size, 5e9), together / 16 * size), shutil.disk_usage(place).free
        if needed > free:
            raise ValueError(
                f"{place} has {free / 1e9:.1f} GB free, this model needs {needed / 1e9:.1f} GB; TMPDIR names another "
                "folder"
            )

    def candidates(self, folder: Path) -> dict[str, tuple[float, Callable[[], Opened]]]:
        """By name: the bits of a weight, roughly, and what opens it."""
        found: dict[str, tuple[float, Callable[[], Opened]]] = {}
        for format in self.formats:
            found[f"moe_numpy {format}"] = bits_of(format), partial(candidates.ours, folder, format)
        if "llama.cpp" in self.peers:
            for format in self.formats:
                kind = gguf_file.format_for(format, self.settings)
                sizes = max(self.batches), _LONGEST
                if kind is not None:
                    opening = partial(candidates.llama_cpp, folder, kind, *sizes)
                    found[f"llama.cpp {kind}"] = bits_of(format), opening
        if "transformers" in self.peers:
            for implementation in ("grouped_mm", "eager"):
                opening = partial(candidates.transformers, folder, implementation)
                found[f"transformers {implementation}"] = 16, opening
        return found


def measure(
    plan: Plan, rounds: int, budget_s: float, console: Console
) -> Generator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Yield what comes next and the function that measures its row.

    Raises:
        PeerError: a peer ended, or says other tokens than rounding explains.
    """
    memory = Memory(threads.count())
    console.print(f"compare figures of a quiet machine only; {_load()}", highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="moe_numpy_bench_") as place:
        folder = Path(place)
        of_all = plan.candidates(folder)
        write_random_model(folder, plan.settings, console)
        model = from_pretrained(folder)
        groups = [list(of_all)] if plan.in_turn else [[name] for name in of_all]
        if not plan.in_turn:
            console.print("memory does not hold all candidates: one after the other instead of in turn")
        texts = texts_for(plan.settings["vocab_size"], max(plan.batches))
        console.print("counting the experts that these texts choose")
        distinct, top = _known(model, texts, plan.batches)
        for group in groups:
            with ExitStack() as stack:
                opened = {}
                for name in group:
                    console.print(f"loading {name}", highlight=False, soft_wrap=True)
                    opened[name] = stack.enter_context(of_all[name][1]())
                errors = {name: error_of(name, candidate, texts[0], top) for name, (candidate, _) in opened.items()}
                turns = Turns(opened, memory, rounds, budget_s, console)
                for batch in (None, *plan.batches):
                    given = texts[: batch or 1]
                    for name, row in turns.rows(given, TOKENS if batch else 0, distinct.get(len(given))):
                        yield name, partial(_completed, row, errors[name], plan.in_turn)


def _completed(row: Callable[[], dict[str, Any]], error: float | None, in_turn: bool) -> dict[str, Any]:
    return row() | {"max_abs_error": error, "in_turn": in_turn}


def texts_for(vocab_size: int, count: int) -> list[list[int]]:
    """Prompts of random tokens."""
    texts: list[list[int]] = np.random.default_rng(1).integers(3, vocab_size, (count, PROMPT)).tolist()
    return texts


def _known(
    model: Transformer, texts: list[list[int]], batches: Sequence[int]
) -> tuple[dict[int, float], list[tuple[int, float]]]:
    """Distinct experts of a call in a layer, by batch; and the likeliest first tokens of the first text."""
    answer = candidates.Ours.of(model, candidates.AS_STORED).answer(texts, TOKENS, fresh=True, top=_TOP)
    whole = np.concatenate([texts, np.array(answer.new)[:, :TOKENS]], 1)
    return distinct_experts(model, whole, PROMPT, batches), answer.top


def distinct_experts(model: Transformer, texts: np.ndarray, start: int, batches: Sequence[int]) -> dict[int, float]:
    """How many experts of a layer the tokens of one position choose, in the first texts, by the number of these.

    The mean over layers and over positions from ``start`` on.
    """
    with no_grad():
        routings = [routing for routing in model(texts).routings if routing is not None]
    length, counts = texts.shape[1], dict.fromkeys(batches, 0)
    for routing in routings:
        text, position = np.divmod(routing.token, length)
        for batch in batches:
            mine = (text < batch) & (position >= start)
            counts[batch] += len(np.unique(np.stack([position[mine], routing.expert[mine]], 1), axis=0))
    return {batch: count / (length - start) / len(routings) for batch, count in counts.items()}


def error_of(name: str, candidate: Candidate, text: list[int], expected: list[tuple[int, float]]) -> float | None:
    """The largest difference between log probabilities of the first token, over those that both list, if any.

    Raises:
        PeerError: a candidate with the weights of the files differs by more than rounding explains.
    """
    top = dict(candidate.answer([text], 0, fresh=True, top=_TOP).top)
    error = max((abs(top[token] - p) for token, p in expected if token in top), default=None)
    if name.endswith(EXACT) and (error is None or not error < TOLERANCE):
        raise PeerError(f"{name} is another model: its likeliest tokens are {top}, expected {dict(expected)}")
    return error


def _load() -> str:
    """How busy it is, where the system says so."""
    return f"load now {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores" if hasattr(os, "getloadavg") else ""


def _physical() -> float:
    """Bytes of memory; without limit where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
