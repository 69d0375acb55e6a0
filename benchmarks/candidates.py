"""What decodes in ``bench decode``: our decoder in each format, and peers; all with one face."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from moe_numpy.inference import Decoder, Sequence
from moe_numpy.kernels import threads
from moe_numpy.models import Transformer
from moe_numpy.pretrained import from_pretrained

from .peer_process import PeerProcess
from .weights_read import Numbers, Weights, bits_of

AS_STORED = "bfloat16"
_UNTIMED = 2  # tokens before the clock starts


@dataclass(frozen=True)
class Answer:
    """What a candidate took, and what it wrote.

    Attributes:
        prompt_s: seconds for reading the texts.
        decode_s: seconds for the further tokens of all texts, after the first.
        new: the tokens of each text, the first among them.
        top: the likeliest first tokens of the first text, with their log probabilities.
    """

    prompt_s: float
    decode_s: float
    new: list[list[int]]
    top: list[tuple[int, float]]


class Candidate(Protocol):
    """Something that decodes."""

    def answer(self, texts: list[list[int]], tokens: int, *, fresh: bool, top: int = 0) -> Answer:
        """Read texts, from the beginning if ``fresh``, and write one token and ``tokens`` more after each, greedily."""


@dataclass
class Ours:
    """Our decoder."""

    decoder: Decoder
    texts: dict[int, tuple[list[Sequence], np.ndarray]] = field(default_factory=dict)  # that were read, by their number

    @classmethod
    def of(cls, model: Transformer, format: str) -> "Ours":
        """In a format; that of the files costs nothing."""
        given = None if format == AS_STORED else format
        return cls(Decoder(model, given, given))

    def answer(self, texts: list[list[int]], tokens: int, *, fresh: bool, top: int = 0) -> Answer:
        """As :class:`Candidate`."""
        begun = time.perf_counter()
        if fresh or len(texts) not in self.texts:
            sequences = [self.decoder.new_sequence() for _ in texts]
            logits = self.decoder.read(*zip(sequences, map(np.array, texts), strict=True))
            self.texts[len(texts)] = sequences, logits
        read = time.perf_counter()
        sequences, first = self.texts[len(texts)]
        for _ in range(min(tokens, 1)):  # wakes threads and caches
            self._write(sequences, first, _UNTIMED)
            self._unread(sequences, texts)
        start = time.perf_counter()
        new = self._write(sequences, first, tokens)
        end = time.perf_counter()
        self._unread(sequences, texts)
        wide = first[0].astype(np.float64)
        best = np.argsort(-wide)[:top].tolist()
        logs = wide - np.log(np.exp(wide - wide.max()).sum()) - wide.max()
        return Answer(read - begun, end - start, new, [(token, float(logs[token])) for token in best])

    def _write(self, sequences: list[Sequence], logits: np.ndarray, tokens: int) -> list[list[int]]:
        new = [logits.argmax(1)]
        for _ in range(tokens):
            logits = self.decoder.read(*((s, new[-1][i : i + 1]) for i, s in enumerate(sequences)))
            new.append(logits.argmax(1))
        written: list[list[int]] = np.stack(new, 1).tolist()
        return written

    @staticmethod
    def _unread(sequences: list[Sequence], texts: list[list[int]]) -> None:
        for sequence, text in zip(sequences, texts, strict=True):
            sequence.cut(len(text))


@dataclass
class Peer:
    """A peer in its process."""

    process: PeerProcess

    def answer(self, texts: list[list[int]], tokens: int, *, fresh: bool, top: int = 0) -> Answer:
        """As :class:`Candidate`."""
        told = self.process.ask(texts=texts, tokens=tokens, fresh=fresh, top=top)
        return Answer(told["prompt_s"], told["decode_s"], told["new"], [(int(i), float(p)) for i, p in told["top"]])


@contextmanager
def peer(name: str, module: str, *arguments: object) -> Iterator[Peer]:
    """A peer, which ends with the block."""
    process = PeerProcess(name, module, *arguments)
    try:
        yield Peer(process)
    finally:
        process.close()


@contextmanager
def ours(folder: Path, format: str) -> Iterator[tuple[Candidate, Weights]]:
    """Our decoder in a format."""
    model = from_pretrained(folder)
    yield Ours.of(model, format), Numbers.of(model).stored(bits_of(format))


@contextmanager
def transformers(folder: Path, implementation: str) -> Iterator[tuple[Candidate, Weights]]:
    """transformers in bfloat16, with one of its implementations of experts."""
    numbers = Numbers.of(from_pretrained(folder))
    arguments = folder, implementation, threads.count()
    with peer(f"transformers {implementation}", "benchmarks.transformers_decoding", *arguments) as found:
        yield found, numbers.stored(16, 2)


@contextmanager
def llama_cpp(folder: Path, format: str, num_texts: int, num_tokens: int) -> Iterator[tuple[Candidate, Weights]]:
    """llama.cpp in a format, with a file that is written first, and deleted in the end."""
    file = folder / f"{format}.gguf"
    try:
        with peer("gguf", "benchmarks.gguf_file", folder, file, format, threads.count()) as written:
            weights = Weights(*written.process.ready, Numbers.of(from_pretrained(folder)).num_layers)
        with peer(f"llama.cpp {format}", "benchmarks.llama_cpp", file, threads.count(), num_texts, num_tokens) as found:
            yield found, weights
    finally:
        file.unlink(missing_ok=True)
