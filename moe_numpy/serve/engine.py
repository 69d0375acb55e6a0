"""Which tokens are read next: continuous batching, iteration by iteration (Yu et al. 2022, "Orca", section 3).

One thread owns the model. In each step every text that is being written reads its latest token, and prompts share what
is left of a budget of tokens (Agrawal et al. 2024, "Sarathi-Serve", section 4), all in one call of the decoder. What a
text gets depends on itself alone, so that an answer has the same bits in any company.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..inference import Decoder, PrefixCache
from ..inference.decoder import SHARED_FROM
from ..models.text import Tokenizer
from ..typing import Array
from .answers import Answer, Ask, Job, Piece, Prompt

LOG = logging.getLogger(__name__)
BUDGET = 128  # tokens of one step
_OF_A_TEXT = 1 << 23  # multiplications in the time that one token takes on its way to its client, who needs a core too
_LARGEST_CACHE = 1 << 30  # bytes
_WEIGHT = 0.2  # of the latest answer in the average


class Refused(Exception):
    """A job is not taken: the queue is full, or the engine is stopping.

    Attributes:
        retry_after: seconds, after which there may be room; None if there will be none.
    """

    def __init__(self, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class Stopped(Exception):
    """The engine stopped before an answer had ended."""


@dataclass
class Total:
    """Tokens so far: of prompts, those of them that were known, and drawn."""

    prompt: int = 0
    cached: int = 0
    drawn: int = 0


class Engine:
    """Writes the answers of many jobs at the same time.

    Jobs begin in the order in which they came, as slots become free.

    Args:
        decoder: the model.
        tokenizer: of its text.
        slots: texts that are written at the same time, at most.
        queue: jobs that wait, at most, besides those that a free slot can take at once.
        budget: tokens of one step; prompts are read in pieces that fit.
        cache: bytes for beginnings of texts that are read once for all; by default as much as full slots take, at most
            1 GiB.

    Attributes:
        deliver: hands the pieces of a step out; by default it puts them, in the engine's thread. It must not wait.
        total: tokens of all jobs so far.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        *,
        slots: int = 8,
        queue: int = 64,
        budget: int = BUDGET,
        cache: int | None = None,
    ):
        for name, value in (("slots", slots), ("queue", queue), ("budget", budget)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.decoder, self.tokenizer = decoder, tokenizer
        self.slots, self.queue, self.budget = slots, queue, budget
        self.cache = PrefixCache(decoder, min(self._full(), _LARGEST_CACHE) if cache is None else cache)
        self.deliver: Callable[[Sequence[tuple[Job, Piece]]], None] = _put_all
        self.total = Total()
        self._wake = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._active: list[Answer] = []
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._jobs: set[Job] = set()
        self._jobs_waiting = 0
        self._closing = self._ending = False
        self._seconds = 1.0  # of an answer, on average
        self._thread: threading.Thread | None = None

    def warm_up(self) -> None:
        """Let the decoder prepare for each number of texts that can be written together."""
        for num in range(1, self.slots + 1):
            self.decoder.read(*((self.decoder.new_sequence(), np.zeros(1, np.int64)) for _ in range(num)))

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, asks: Sequence[Ask], put: Callable[[Piece], None]) -> Job:
        """Take a job, whose answers are numbered through: those of the first prompt, then those of the second.

        Refused: the queue is full, or the engine is stopping.
        """
        job = Job(asks, put)
        answers: list[Answer] = []
        for ask in asks:
            prompt = Prompt(ask, ask.count)
            for rng in ask.sampling.generators(ask.count):
                answers.append(Answer(job, prompt, len(answers), rng, self.tokenizer))
        with self._wake:
            if self._closing:
                raise Refused("the server is stopping")
            if self._jobs_waiting - max(self.slots - len(self._active), 0) >= self.queue:
                raise Refused(f"the queue is full: {self._jobs_waiting} requests wait", self._retry_after())
            self._waiting += answers
            self._jobs.add(job)
            self._jobs_waiting += 1
            self._wake.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Write no more of a job's answers, from the next token on."""
        with self._wake:
            job.cancelled = True
            self._wake.notify()

    def call(self, function: Callable[[], Any]) -> Future:
        """Let the engine's thread call a function between two steps; one for each step.

        It may use the decoder, and should take no longer than a step. Refused: the engine is stopping.
        """
        future: Future = Future()
        with self._wake:
            if self._closing:
                raise Refused("the server is stopping")
            self._calls.append((function, future))
            self._wake.notify()
        return future

    def stop(self, grace: float = 0.0) -> None:
        """Take no more jobs; after ``grace`` seconds end those that are left with :class:`Stopped`, and return."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(grace)
        with self._wake:
            self._ending = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()

    @property
    def busy(self) -> int:
        """Slots that are taken."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Jobs of which nothing has begun."""
        return self._jobs_waiting

    def _full(self) -> int:
        """The bytes that all slots keep when their texts are as long as the context."""
        kept = [each for layer in self.decoder.new_sequence().layers for each in layer]
        return self.slots * self.decoder.parts.context * sum(each.rows.shape[1] * 4 for each in kept)

    def _retry_after(self) -> int:
        return min(max(round(self._seconds / self.slots), 1), 60)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._active or self._calls or self._closing):
                    self._wake.wait()
                if self._closing and not (self._waiting or self._active or self._calls):
                    return
            try:
                with np.errstate(all="ignore"):  # what is not finite is found when a token is drawn
                    if self._ending:
                        self._fail_all(Stopped("the server is stopping"))
                    self._step()
            except Exception as error:
                LOG.exception("a step failed")
                for answer in self._active:
                    answer.job.fail(error)
            try:
                self._hand_out()
            except Exception:
                LOG.exception("pieces could not be handed out")

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            for job in self._jobs:
                job.fail(error)
            while self._calls:
                self._calls.popleft()[1].cancel()

    def _hand_out(self) -> None:
        """What the step has written, first of all what somebody sees first; and forget the jobs that are done."""
        with self._wake:
            jobs, self._jobs = self._jobs, {answer.job for answer in (*self._waiting, *self._active)}
        pieces = [(job, piece) for job in sorted(jobs, key=lambda job: job.heard) for piece in job.told()]
        if pieces:
            self.deliver(pieces)

    def _step(self) -> None:
        """One token for each text that is written, and pieces of prompts."""
        self._sweep()
        if self._calls:
            _answer_call(*self._calls.popleft())
        self._admit()
        plan = self._plan()
        if plan:
            for answer, num, logits in self._read(plan):
                self._guarded(answer, partial(self._advance, answer, num, logits))
        self._sweep()

    def _advance(self, answer: Answer, num: int, logits: Array) -> None:
        if answer.in_prompt:  # before a window forgets its beginning
            self.cache.keep(answer.sequence, np.array(answer.tokens))
        answer.advance(logits, num)

    def _sweep(self) -> None:
        """Free the slots of what has ended, failed or was cancelled."""
        with self._wake:
            for answer in [a for a in self._active if a.ended or a.job.cancelled]:
                self._active.remove(answer)
                self._leave(answer)
            if any(answer.job.cancelled for answer in self._waiting):
                gone = {answer.job for answer in self._waiting if answer.job.cancelled}
                self._waiting = deque(answer for answer in self._waiting if answer.job not in gone)
                self._jobs_waiting -= sum(not job.begun for job in gone)

    def _leave(self, answer: Answer) -> None:
        """What it has read may be the beginning of another text."""
        if answer.sequence is not None:
            self.cache.keep(answer.sequence, np.array(answer.tokens))
        if answer.ended:
            self._seconds += _WEIGHT * (time.monotonic() - answer.began - self._seconds)
        answer.sequence = None

    def _admit(self) -> None:
        """Give free slots to those that wait; not while another answer reads the same prompt for them.

        The job with the fewest slots comes first, so that one with many answers keeps nobody waiting; then the oldest.
        """
        while len(self._active) < self.slots:
            with self._wake:
                ready = [answer for answer in self._waiting if answer.prompt.leader is None]
                if not ready:
                    return
                slots = Counter(answer.job for answer in self._active)
                answer = min(ready, key=lambda each: slots[each.job])
                self._waiting.remove(answer)
                job = answer.job
                if not job.begun:
                    job.begun = True
                    self._jobs_waiting -= 1
                    self.total.prompt += job.prompt_tokens
                self._active.append(answer)
            self._guarded(answer, partial(answer.begin, self.decoder, self.cache))

    def _plan(self) -> list[tuple[Answer, int]]:
        """How many tokens each text reads in this step: its latest; what is left of the budget is divided evenly.

        A prompt that needs less leaves more to the others. Each reads at least one token.
        """
        active = [answer for answer in self._active if not (answer.ended or answer.job.cancelled)]
        plan = [(answer, 1) for answer in active if not answer.in_prompt]
        left = self.budget - len(plan)
        prompts = sorted((a for a in active if a.in_prompt), key=lambda answer: answer.num_unread)
        for i, answer in enumerate(prompts):
            share = min(answer.num_unread, max(left // (len(prompts) - i), 1))
            left -= share
            plan.append((answer, share))
        return plan

    def _read(self, plan: Sequence[tuple[Answer, int]]) -> list[tuple[Answer, int, Array]]:
        """Each text, how many tokens it read, and logits; without those that failed."""
        try:
            return self._read_together(plan)
        except Exception as error:
            if len(plan) == 1:
                plan[0][0].job.fail(error)
                return []
            return [found for each in plan for found in self._read([each])]

    def _read_together(self, plan: Sequence[tuple[Answer, int]]) -> list[tuple[Answer, int, Array]]:
        texts, choices = [], {}
        for answer, num in plan:
            start, wanted = answer.sequence.length, answer.choices
            texts.append((answer.sequence, np.array(answer.tokens[start : start + num])))
            if wanted is not None:
                choices[answer.sequence] = wanted
        every = any(answer.in_prompt and answer.ask.reads_all for answer, _ in plan)
        shared_from = max(SHARED_FROM, _OF_A_TEXT * len(plan))
        logits = self.decoder.read(*texts, every=every, choices=choices, shared_from=shared_from)
        found, row = [], 0
        for answer, num in plan:
            rows = num if every else 1
            found.append((answer, num, logits[row : row + rows]))
            row += rows
        return found

    def _guarded(self, answer: Answer, function: Callable[[], None]) -> None:
        """What goes wrong in one answer ends its job, and no other."""
        job = answer.job
        cached, drawn = job.cached_tokens, job.completion_tokens
        try:
            function()
        except Exception as error:
            job.fail(error)
        self.total.cached += job.cached_tokens - cached
        self.total.drawn += job.completion_tokens - drawn


def _put_all(pieces: Sequence[tuple[Job, Piece]]) -> None:
    for job, piece in pieces:
        job.put(piece)


def _answer_call(function: Callable[[], Any], future: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
