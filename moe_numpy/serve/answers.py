"""One text that is being written: what is asked for, what has been read and drawn, and when it ends."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..inference import Choices, Decoder, PrefixCache
from ..inference import Sequence as ReadText
from ..models.text import TextStream, Tokenizer
from ..typing import Array, Float
from .sampling import LogProbability, Sampling, log_probability
from .stopping import StoppedText

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True)
class Ask:
    """What is asked for: a prompt to be continued.

    Attributes:
        prompt: token ids, fewer than the context.
        max_tokens: tokens to draw at most, the end of the text included.
        count: answers to the same prompt.
        sampling: how tokens are drawn.
        stops: strings that end the text.
        logprobs: how many of the most likely tokens are told for each token; None for no log-probabilities.
        routing: whether the experts of each token are told.
        echo: the prompt's text, if it is part of the answer; its tokens are then told like those drawn.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    count: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    routing: bool = False
    echo: str | None = None

    @property
    def tells_tokens(self) -> bool:
        """Whether more than text is wanted."""
        return self.logprobs is not None or self.routing

    @property
    def reads_all(self) -> bool:
        """Whether something is told of every token of the prompt, so that none can come from a cache."""
        return self.echo is not None and self.tells_tokens


@dataclass
class Token:
    """What is told of a token.

    Attributes:
        id: of the token.
        offset: where its text begins in that of the answer.
        logprob: None for the first token of all, or where it is not wanted.
        choices: by layer, its experts and gate weights; None where they are not wanted.
    """

    id: int
    offset: int
    logprob: LogProbability | None = None
    choices: Choices | None = None


@dataclass(frozen=True)
class Piece:
    """What is new of an answer.

    Attributes:
        index: which answer of its job.
        text: to append.
        tokens: told with it.
        finish: why it ends, with the last piece: ``stop`` or ``length``.
        error: why the whole job has failed; nothing follows.
    """

    index: int = 0
    text: str = ""
    tokens: Sequence[Token] = ()
    finish: str | None = None
    error: Exception | None = None


class Job:
    """What one client has asked for, answered by one or more texts.

    Args:
        asks: one for each prompt.
        put: takes the pieces of all answers, in the order in which they are written.

    Attributes:
        cancelled: whether no more is to be written.
        begun: whether one of its answers has begun.
        heard: whether anything was told of it.
        prompt_tokens: of all prompts.
        cached_tokens: those that were not read, because an earlier text began with them.
        completion_tokens: drawn so far, with those that end texts.
    """

    def __init__(self, asks: Sequence[Ask], put: Callable[[Piece], None]):
        self.put = put
        self.cancelled = self.begun = self.heard = False
        self.prompt_tokens = sum(len(ask.prompt) for ask in asks)
        self.cached_tokens = self.completion_tokens = 0
        self._untold: list[Piece] = []

    def tell(self, piece: Piece) -> None:
        """Add a piece to those that are to be put."""
        self._untold.append(piece)

    def fail(self, error: Exception) -> None:
        """End all answers with an error, unless that was done already."""
        if not self.cancelled:
            self.cancelled = True
            self.tell(Piece(error=error))

    def told(self) -> list[Piece]:
        """The pieces since the last time."""
        pieces, self._untold = self._untold, []
        self.heard = self.heard or bool(pieces)
        return pieces


@dataclass(eq=False)
class Prompt:
    """A prompt that is read once for all its answers.

    Attributes:
        ask: of them.
        waiting: answers that have not begun.
        leader: the answer that reads it now.
        state: the text that has read it, when it was read and answers wait for it; and the logits of what follows.
        tokens: what is told of its tokens, with echo.
    """

    ask: Ask
    waiting: int
    leader: "Answer | None" = None
    state: ReadText | None = None
    logits: Any = None
    tokens: list[Token] = field(default_factory=list)
    choices: list[Choices] = field(default_factory=list)


class Answer:
    """A text that is being written in a slot.

    Attributes:
        tokens: of the prompt and those drawn.
        sequence: what the decoder has read of them.
        finish: why it ends, once that is decided.
        ended: whether nothing more is to be read or told.
        began: when it took a slot, by the clock.
    """

    def __init__(self, job: Job, prompt: Prompt, index: int, rng: np.random.Generator, tokenizer: Tokenizer):
        self.job, self.prompt, self.index = job, prompt, index
        self.ask, self.tokens = prompt.ask, list(prompt.ask.prompt)
        self.sequence: Any = None
        self.finish: str | None = None
        self.ended = False
        self.began = 0.0
        self._rng, self._tokenizer = rng, tokenizer
        self._text = StoppedText(_after(self.tokens[-1], tokenizer), self.ask.stops)
        self._drawn = 0
        self._untold: list[tuple[int, Token]] = []  # each with its number among those drawn
        self._choices: list[Choices] = []
        self._shift = len(self.ask.echo or "")  # of offsets

    @property
    def num_unread(self) -> int:
        """Tokens for the decoder to read: many of a prompt, then one at a time."""
        return len(self.tokens) - self.sequence.length

    @property
    def in_prompt(self) -> bool:
        """Whether its prompt is still being read."""
        return self._drawn == 0 and self.finish is None

    def begin(self, decoder: Decoder, cache: PrefixCache) -> None:
        """Take a slot. Where another answer to the prompt has read it, the first token is drawn at once."""
        prompt, self.began = self.prompt, time.monotonic()
        prompt.waiting -= 1
        if prompt.state is not None:
            self.sequence = prompt.state.copy() if prompt.waiting else prompt.state
            logits = prompt.logits
            if not prompt.waiting:
                prompt.state = prompt.logits = None
            self._begin_answer(logits)
            return
        prompt.leader = self
        if self.ask.reads_all:
            self.sequence = decoder.new_sequence()
        else:
            self.sequence = cache.begin(np.array(self.tokens))
            self.job.cached_tokens += self.sequence.length

    @property
    def choices(self) -> list[Choices] | None:
        """Where the decoder puts the experts of the tokens that it reads next; None if nobody wants to know."""
        if not self.ask.routing:
            return None
        if self.in_prompt:
            return self.prompt.choices if self.ask.echo is not None else None
        return self._choices

    def advance(self, logits: Float[Array, "rows V"], num_read: int) -> None:
        """Tokens were read: ``logits`` of what follows each of them, or of the last one.

        NonFiniteError if a logit is NaN or infinite.
        """
        if not self.in_prompt:
            self._continue(logits[-1])
            return
        if self.ask.reads_all:
            self._tell_prompt(logits, self.sequence.length - num_read)
        if self.num_unread == 0:
            prompt = self.prompt
            prompt.leader = None
            if prompt.waiting:
                prompt.state, prompt.logits = self.sequence.copy(), logits[-1].copy()
            self._begin_answer(logits[-1])

    def _tell_prompt(self, logits: Float[Array, "rows V"], start: int) -> None:
        """What the tokens of the prompt after ``start`` were expected to be, and what experts they chose."""
        told, ask = self.prompt.tokens, self.ask
        if start == 0:
            told.append(Token(self.tokens[0], 0))
        if ask.logprobs is None:
            told += [Token(token, 0) for token in self.tokens[len(told) : start + len(logits) + 1]]
        else:
            for row, token in zip(logits, self.tokens[start + 1 :], strict=False):
                told.append(Token(token, 0, log_probability(row, token, ask.logprobs)))

    def _begin_answer(self, logits: Float[Array, " V"]) -> None:
        """The prompt was read."""
        if self.ask.echo is not None:
            told, choices = self.prompt.tokens, self.prompt.choices
            for token, chosen in zip(told, choices, strict=False):
                token.choices = chosen
            for token, offset in zip(told, _offsets(self.ask.prompt, self.ask.echo, self._tokenizer), strict=False):
                token.offset = offset
            self.job.tell(Piece(self.index, self.ask.echo, tuple(told)))
        if self.ask.max_tokens == 0:
            self._end(LENGTH)
        else:
            self._draw(logits)

    def _continue(self, logits: Float[Array, " V"]) -> None:
        if self.finish is None:
            self._draw(logits)
        else:  # it was read for the experts of the last token only
            self._flush("")

    def _draw(self, logits: Float[Array, " V"]) -> None:
        token = self.ask.sampling.draw(logits, self._rng)
        self._drawn += 1
        self.job.completion_tokens += 1
        if token in self._tokenizer.end_ids:
            self._end(STOP)
            return
        told = None if self.ask.logprobs is None else log_probability(logits, token, self.ask.logprobs)
        self.tokens.append(token)
        if self.ask.tells_tokens:
            self._untold.append((self._drawn - 1, Token(token, self._shift + self._text.length, told)))
        text = self._text.feed(token)
        if self._text.stopped:
            self._end(STOP, text)
        elif self._drawn == self.ask.max_tokens:
            self._end(LENGTH, text)
        else:
            self._flush(text)

    def _end(self, finish: str, text: str = "") -> None:
        text += self._text.finish()
        self.finish = STOP if self._text.stopped else finish
        if self._text.stopped:
            end = self._shift + self._text.shown
            self._untold = [each for each in self._untold if each[1].offset < end]
        self._flush(text)

    def _flush(self, text: str) -> None:
        """Give out what is known: text, the tokens that it shows, and the end."""
        shown, told = self._shift + self._text.shown, []
        while self._untold and (self._untold[0][1].offset < shown or self.finish is not None):
            number, token = self._untold[0]
            if self.ask.routing:
                if number >= len(self._choices):  # known when it was read, with the next token
                    break
                token.choices = self._choices[number]
            told.append(token)
            del self._untold[0]
        self.ended = self.finish is not None and not self._untold
        if text or told or self.ended:
            self.job.tell(Piece(self.index, text, tuple(told), self.finish if self.ended else None))


def _after(token: int, tokenizer: Tokenizer) -> TextStream:
    """The stream of what follows a token, so that a first word keeps its space; a fresh one within a character."""
    stream = tokenizer.stream()
    return stream if stream.feed(token) else tokenizer.stream()


def _offsets(tokens: Sequence[int], text: str, tokenizer: Tokenizer) -> Iterator[int]:
    """Where each token begins in a text; those before it, such as a first ``<s>``, at 0."""
    stream, lengths = tokenizer.stream(), [0]
    for token in tokens:
        lengths.append(lengths[-1] + len(stream.feed(token)))
    before = lengths[-1] + len(stream.finish()) - len(text)
    return (max(length - before, 0) for length in lengths[:-1])
