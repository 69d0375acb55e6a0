"""A transformer that reads and continues texts without a tape, row by row.

The steps of a layer add instructions to a program, once for each number of rows; a call replays it. No formula is
repeated: compiled instructions are made of the kernels' loops, definitions of the ops and the router. What a token gets
depends on its own text alone, never on the company in its call, nor on how its text was cut into calls.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..autodiff import no_grad
from ..autodiff.function import anything_substituted
from ..kernels import programs
from ..models import Transformer
from ..models.transformer import Block
from ..typing import Array, Float, Int
from .attention import attention_step
from .choices import Choices, add_choices
from .feed_forward import MoEStep, feed_forward_step
from .kept_programs import KeptPrograms
from .maps import Map, Norm, matrix_of
from .program import Program
from .rows import Rows
from .sequence import Sequence

CHUNK = 512  # tokens of one text at a time
SHARED_FROM = 1 << 21  # multiplications: with fewer, threads cost more than they save


class Decoder:
    """A model for texts that grow.

    Args:
        model: the weights.
        format: of the matrices outside the experts, a name from :data:`moe_numpy.formats.FORMATS`; None for that of the
            model. Routers, norms and biases stay float32, the embedding as it is.
        experts_format: of the experts' matrices, likewise.

    Raises:
        NotRowByRowError: there is a layer in which a row depends on other rows, such as one of expert choice.
        ValueError: an unknown format, or a weight that is not finite in it.

    Attributes:
        parts: the configuration of the model.
    """

    def __init__(self, model: Transformer, format: str | None = None, experts_format: str | None = None):
        self.parts = model.parts
        self._lock = threading.Lock()  # programs own arrays
        self._programs = KeptPrograms()
        self.layers = [_Layer(layer, format, experts_format) for layer in model.layers]
        self.embedding = model.embedding.weight.data
        self.norm = Norm(model.norm)
        output = model.output
        self.output = Map(matrix_of(self.embedding, format)) if output is None else Map.of(output, format)

    @property
    def routed_layers(self) -> list[int]:
        """The layers with a router."""
        return [i for i, layer in enumerate(self.layers) if isinstance(layer.feed_forward, MoEStep)]

    def new_sequence(self) -> Sequence:
        """A text of which nothing was read yet."""
        return Sequence([layer.attention.new() for layer in self.layers])

    def read(
        self,
        *texts: tuple[Sequence, Int[np.ndarray, " _"]],
        every: bool = False,
        choices: Mapping[Sequence, list[Choices]] | None = None,
        shared_from: int = SHARED_FROM,
    ) -> Float[np.ndarray, "rows V"]:
        """Read more tokens of some texts; the logits of what follows each text, or with ``every`` each token.

        Args:
            texts: each with its new tokens.
            every: whether logits of all tokens are wanted.
            choices: lists of some of the texts, to which the experts that each new token chose are added.
            shared_from: the least work that threads share, in multiplications. No bit depends on it.

        Raises:
            ValueError: no text, one twice, one without tokens, an id that the model does not have, or more tokens than
                its context. Whatever fails, no text has read any of it, but for whole pieces of ``CHUNK`` tokens.
        """
        self._require(texts)
        with self._lock, no_grad(), _crew(shared_from) as crew:
            first: list[Any] = [[] for _ in texts]  # logits of the pieces of long texts
            left = list(texts)
            for i, (sequence, tokens) in enumerate(texts):  # in pieces, which changes nothing but the memory
                last = (len(tokens) - 1) // CHUNK * CHUNK
                for start in range(0, last, CHUNK):
                    logits = self._rows([(sequence, tokens[start : start + CHUNK])], every, crew, choices)
                    first[i] += [logits] if every else []
                left[i] = sequence, tokens[last:]
            logits = self._rows(left, every, crew, choices)
            self._programs.forget()
        if not any(first):
            return logits
        ends = np.cumsum([len(tokens) for _, tokens in left])[:-1]
        return np.concatenate([x for i, rest in enumerate(np.split(logits, ends)) for x in (*first[i], rest)])

    def _rows(
        self, texts: list[tuple[Sequence, Int[np.ndarray, " _"]]], every: bool, crew: Any, choices: Any
    ) -> Float[np.ndarray, "rows V"]:
        p, parts, end = self.parts, [], 0
        for sequence, tokens in texts:
            parts.append((sequence, slice(end, end + len(tokens))))
            end += len(tokens)
        rows = Rows(np.concatenate([tokens for _, tokens in texts]), parts)
        body: Any = self._programs.of(self._body, len(rows.tokens))
        head: Any = self._programs.of(self._head, len(rows.tokens) if every else len(parts))
        asked = slice(None) if every else [mine.stop - 1 for _, mine in parts]
        try:
            x = body.answer
            np.multiply(self.embedding[rows.tokens], np.float32(p.embedding_multiplier), out=x, dtype=np.float32)
            body.run(rows, crew)
            head.question[...] = x[asked]
            head.run(rows, crew)
            logits = head.answer / np.float32(p.logit_divisor)
        except BaseException:  # an expert that could not be read, Ctrl-C
            for sequence, _ in parts:
                sequence.cut(sequence.length)
            raise
        for sequence, mine in parts:
            sequence.length += mine.stop - mine.start
        if choices:
            add_choices(choices, rows, {i: of() for i, of in zip(self.routed_layers, body.chosen, strict=True)})
        return logits

    def _body(self, program: Program) -> None:
        x = program.room("stream", program.num_rows, self.parts.d_model)
        for i, layer in enumerate(self.layers):
            layer.add_to(program, x, i)
        program.question = program.answer = x

    def _head(self, program: Program) -> None:
        program.question = program.room("stream", program.num_rows, self.parts.d_model)
        normed = self.norm.add_to(program, program.question, "normed")
        program.answer = self.output.add_to(program, normed, "output")

    def _require(self, texts: Any) -> None:
        """ValueError as :meth:`read`, before anything is read."""
        p = self.parts
        if not texts or not all(len(tokens) for _, tokens in texts):
            raise ValueError("there must be at least one text, and each must have at least one new token")
        if len({id(sequence) for sequence, _ in texts}) < len(texts):
            raise ValueError("a text can be given once in a call: its new tokens belong together")
        for sequence, tokens in texts:
            if sequence.length + len(tokens) > p.context:
                raise ValueError(f"{sequence.length + len(tokens)} tokens do not fit context={p.context}")
            wrong = [token for token in (tokens.min(), tokens.max()) if not 0 <= token < p.vocab_size]
            if wrong:
                raise ValueError(f"token ids must be at least 0 and below vocab_size={p.vocab_size}, got {wrong[0]}")


class _Layer:
    """:class:`moe_numpy.models.transformer.Block` from arrays to arrays."""

    def __init__(self, block: Block, format: str | None, experts_format: str | None):
        self.block = block
        self.norms = Norm(block.attention_norm), Norm(block.feed_forward_norm)
        self.attention = attention_step(block.attention, format)
        self.feed_forward = feed_forward_step(block.feed_forward, format, experts_format)

    def add_to(self, program: Program, x: Float[Array, "N d"], i: int) -> None:
        """The layer in a program, which changes the residual stream x."""
        block, (first, second) = self.block, self.norms
        attended = self.attention.add_to(program, block.before(_in(program, first, "normed"), x), i)
        program.add(x, block.after(_in(program, first, "normed after"), attended), block.multiplier)
        answer = self.feed_forward.add_to(program, block.before(_in(program, second, "normed"), x))
        program.add(x, block.after(_in(program, second, "normed after"), answer), block.multiplier)


def _crew(shared_from: int) -> Any:
    """The threads that walk programs; nobody where these are called by their definitions."""
    return nullcontext() if anything_substituted() else programs(shared_from) or nullcontext()


def _in(program: Program, norm: Norm, name: str) -> Callable[[Any], Any]:
    return lambda x: norm.add_to(program, x, name)
