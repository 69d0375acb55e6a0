"""The engine writes what each text would be alone, whatever happens to the others."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_servers import CONTEXT, Watched, until, writing

from moe_numpy.autodiff import NonFiniteError
from moe_numpy.inference import write
from moe_numpy.models.text import ByteTokenizer, streamed
from moe_numpy.serve import Ask, Refused, Sampling, Stopped
from moe_numpy.serve.sampling import log_probability

TEXT = b"the cat sat on the mat, and the dog did not sit on it at all; so"


class Client:
    """What came of one job."""

    def __init__(self, engine, *asks):
        self.pieces, self._left, self._done = [], sum(ask.count for ask in asks), threading.Event()
        self.job = engine.submit(asks, self._put)

    def _put(self, piece):
        self.pieces.append(piece)
        self._left -= piece.finish is not None
        if piece.error is not None or self._left == 0:
            self._done.set()

    def wait(self):
        assert self._done.wait(20)
        return self

    def text(self, index=0):
        return "".join(piece.text for piece in self.pieces if piece.index == index)

    def tokens(self, index=0):
        return [token for piece in self.pieces if piece.index == index for token in piece.tokens]

    @property
    def error(self):
        return next((piece.error for piece in self.pieces if piece.error is not None), None)


def alone(decoder, ask, seed=None):
    """The tokens of a text that is written by itself."""
    rng = np.random.default_rng(seed)
    s = ask.sampling
    return list(write(decoder, np.array(ask.prompt), ask.max_tokens, rng=rng, temperature=s.temperature, top_p=s.top_p))


def text_of(ids):
    return "".join(streamed(ByteTokenizer(), ids))


@settings(max_examples=5, deadline=None)
@given(  # few different numbers of rows: each is a program
    lengths=st.lists(st.tuples(st.sampled_from([1, 7, 50]), st.integers(1, 9)), min_size=2, max_size=12),
    slots=st.sampled_from([1, 4]),
    budget=st.sampled_from([1, 16]),
    temperature=st.sampled_from([0.0, 0.9]),
)
def test_an_answer_is_the_same_in_any_company(decoder, lengths, slots, budget, temperature):
    asks = [
        Ask(tuple(TEXT[start : start + length]), most, sampling=Sampling(temperature, 0.9, seed=start), logprobs=0)
        for start, (length, most) in enumerate(lengths)
    ]
    with writing(decoder, slots=slots, budget=budget) as engine:
        clients = [Client(engine, ask) for ask in asks]
        for client, ask in zip(clients, asks, strict=True):
            ids = alone(decoder, ask, ask.sampling.seed)
            assert [token.id for token in client.wait().tokens()] == ids
            assert client.text() == text_of(ids)
    assert engine.busy == engine.waiting == 0


def test_several_answers_to_one_prompt(decoder):
    watched, read = Watched(decoder), []
    watched.before = lambda *texts: read.append(sum(len(tokens) for _, tokens in texts))
    ask = Ask(tuple(TEXT[:48]), 6, 5, Sampling(seed=3), logprobs=0)
    with writing(watched, slots=2) as engine:
        client = Client(engine, ask).wait()
    assert [token.id for token in client.tokens(0)] == alone(decoder, ask, 3)
    assert len({client.text(i) for i in range(5)}) > 1
    assert sum(read) == 48 + 5 * 5  # the prompt once, and all tokens but the last
    with writing(decoder) as engine:
        again = Client(engine, ask).wait()
    assert [again.text(i) for i in range(5)] == [client.text(i) for i in range(5)]


def test_a_known_beginning_is_not_read_again(engine):
    ask = Ask(tuple(TEXT[:40]), 4, sampling=Sampling(0.0))
    first, second = Client(engine, ask).wait(), Client(engine, ask).wait()
    assert first.text() == second.text()
    assert (first.job.cached_tokens, second.job.cached_tokens) == (0, 32)
    assert (engine.total.prompt, engine.total.cached, engine.total.drawn) == (80, 32, 8)


def test_a_full_context_ends_the_text(engine):
    client = Client(engine, Ask(tuple(TEXT[:60]), CONTEXT - 60, logprobs=0)).wait()
    assert len(client.tokens()) == 4
    assert client.pieces[-1].finish == "length"


def test_cancelled_within_one_token(decoder):
    """The slot is free, and nothing more is drawn, when the step that was running has ended."""
    watched, allowed, began = Watched(decoder), threading.Semaphore(0), threading.Semaphore(0)

    def wait(*texts):
        began.release()
        assert allowed.acquire(timeout=20)

    watched.before = wait
    with writing(watched, slots=1) as engine:
        client, next_one = Client(engine, Ask(tuple(b"abc"), 50)), Client(engine, Ask(tuple(b"xyz"), 1, logprobs=0))
        for _ in range(3):
            assert began.acquire(timeout=20)
            allowed.release()
        assert began.acquire(timeout=20)  # the fourth token is being computed
        engine.cancel(client.job)
        allowed.release()
        assert began.acquire(timeout=20)
        assert client.job.completion_tokens == 4
        allowed.release()
        assert next_one.wait().tokens()
        until(lambda: engine.busy == 0)


def test_a_text_that_fails_ends_no_other(decoder):
    watched = Watched(decoder)

    def fail_at_question_marks(*texts):
        if any(ord("?") in tokens for _, tokens in texts):
            raise OSError("the disk")

    watched.before = fail_at_question_marks
    asks = [
        Ask(tuple(TEXT[i : i + 9]), 12, sampling=Sampling(0.0, bias={ord("?"): -100}), logprobs=0) for i in range(5)
    ]
    with writing(watched, slots=8) as engine:
        clients = [Client(engine, ask) for ask in asks[:3]]
        bad = Client(engine, Ask(tuple(b"why? because"), 10, 2))
        clients += [Client(engine, ask) for ask in asks[3:]]
        assert isinstance(bad.wait().error, OSError)
        texts = [client.wait().text() for client in clients]
        assert all(client.error is None for client in clients)
        until(lambda: engine.busy == 0)
    with writing(decoder) as engine:
        assert texts == [Client(engine, ask).wait().text() for ask in asks]


def test_numbers_that_are_not_finite_end_their_own_text(engine, monkeypatch):
    real = Sampling.draw

    def draw(self, logits, rng):
        return real(self, logits * np.nan if self.seed == 1 else logits, rng)

    monkeypatch.setattr(Sampling, "draw", draw)
    clients = [Client(engine, Ask(tuple(b"abc"), 5, sampling=Sampling(seed=i))) for i in range(3)]
    assert [type(client.wait().error) for client in clients] == [type(None), NonFiniteError, type(None)]


def test_a_step_that_fails_altogether_leaves_an_engine_that_works(engine, monkeypatch, caplog):
    monkeypatch.setattr(engine, "_plan", lambda: 1 / 0)
    assert isinstance(Client(engine, Ask(tuple(b"abc"), 5)).wait().error, ZeroDivisionError)
    monkeypatch.undo()
    assert Client(engine, Ask(tuple(b"abc"), 5)).wait().error is None
    assert "a step failed" in caplog.text


def test_the_queue_is_bounded_and_says_when_to_come_again(decoder):
    watched, go = Watched(decoder), threading.Event()
    watched.before = lambda *texts: go.wait(20)
    with writing(watched, slots=1, queue=2) as engine:
        clients = [Client(engine, Ask(tuple(b"abc"), 2))]
        until(lambda: engine.busy == 1)
        clients += [Client(engine, Ask(tuple(b"abc"), 2)) for _ in range(2)]
        with pytest.raises(Refused, match="the queue is full: 2 requests wait") as refused:
            Client(engine, Ask(tuple(b"abc"), 2))
        assert 1 <= refused.value.retry_after <= 60
        engine.cancel(clients[1].job)
        go.set()
        assert clients[2].wait().text()
        assert Client(engine, Ask(tuple(b"abc"), 2)).wait().text()
    assert engine.waiting == 0


def test_a_job_with_many_answers_keeps_nobody_waiting(decoder):
    watched, go, order = Watched(decoder), threading.Event(), []
    watched.before = lambda *texts: go.wait(20)
    with writing(watched, slots=2) as engine:
        large = Client(engine, Ask(tuple(b"abc"), 5, 12))
        until(lambda: engine.busy == 1)
        small = Client(engine, Ask(tuple(b"xyz"), 5))
        small.job.put = lambda piece, put=small.job.put: (order.append(len(large.pieces)), put(piece))
        go.set()
        small.wait()
        large.wait()
    ends = sum(piece.finish is not None for piece in large.pieces[: order[-1]])
    assert ends <= 2


def test_prompts_share_the_budget_beside_texts_that_are_written(decoder):
    watched, steps = Watched(decoder), []
    watched.before = lambda *texts: steps.append([len(tokens) for _, tokens in texts])
    with writing(watched, slots=4, budget=10) as engine:
        first = Client(engine, Ask(tuple(b"a"), 40))
        until(lambda: len(steps) > 2)
        others = [Client(engine, Ask(tuple(TEXT[:40]), 1)), Client(engine, Ask(tuple(b"short"), 1))]
        for client in (first, *others):
            client.wait()
    read = [step[:-1] if sum(step) == 16 else step for step in steps]  # the last text makes the number of rows round
    assert max(map(sum, read)) == 10
    assert [1, 9] in read or [1, 4, 5] in read
    assert all(step[0] == 1 for step in read if len(step) > 1)  # decoding goes on


def test_logits_of_the_prompt_and_routing_are_those_of_one_read(engine, decoder):
    ask = Ask(tuple(TEXT[:30]), 6, 2, Sampling(0.7, seed=5), logprobs=3, routing=True, echo=TEXT[:30].decode())
    client = Client(engine, ask, ask).wait()
    for index in range(4):
        tokens = client.tokens(index)
        ids = np.array([token.id for token in tokens])
        sequence, choices = decoder.new_sequence(), []
        logits = decoder.read((sequence, ids), every=True, choices={sequence: choices})
        assert tokens[0].logprob is None
        told = [token.logprob for token in tokens[1:]]
        assert told == [log_probability(x, i, 3) for x, i in zip(logits, ids[1:].tolist(), strict=False)]
        for token, expected in zip(tokens, choices, strict=True):
            assert token.choices.keys() == expected.keys() == {0, 1}
            for layer, (experts, gates) in expected.items():
                assert np.array_equal(token.choices[layer][0], experts)
                assert np.array_equal(token.choices[layer][1], gates)
        assert [token.offset for token in tokens[:30]] == list(range(30))


def test_tokens_that_belong_to_a_stop_string_are_not_told(engine):
    whole = Client(engine, Ask(tuple(b"abc"), 30, sampling=Sampling(0.0), logprobs=0)).wait()
    stop = whole.text()[5:8]
    client = Client(
        engine, Ask(tuple(b"abc"), 30, sampling=Sampling(0.0), stops=(stop,), logprobs=0, routing=True)
    ).wait()
    at = whole.text().find(stop)
    assert client.text() == whole.text()[:at]
    assert client.pieces[-1].finish == "stop"
    assert all(token.offset < at and token.choices for token in client.tokens())
    assert sum(len(ByteTokenizer().bytes_of(token.id)) for token in client.tokens()) >= at


def test_nothing_drawn_is_an_answer_too(engine):
    client = Client(engine, Ask(tuple(b"abc"), 0, echo="abc", logprobs=1)).wait()
    assert client.text() == "abc"
    assert (client.job.completion_tokens, client.pieces[-1].finish) == (0, "length")


def test_functions_are_called_between_steps(engine):
    thread = engine.call(threading.current_thread).result(20)
    assert thread.name == "engine"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(20)


def test_stopping_ends_what_is_left(decoder):
    watched, go = Watched(decoder), threading.Event()
    watched.before = lambda *texts: go.wait(20)
    with writing(watched, slots=1) as engine:
        clients = [Client(engine, Ask(tuple(b"abc"), 40)), Client(engine, Ask(tuple(b"abc"), 40))]
        until(lambda: engine.busy == 1)
        stopping = threading.Thread(target=engine.stop, args=(0.01,))
        stopping.start()
        until(lambda: engine._ending)
        go.set()
        stopping.join(20)
        assert all(isinstance(client.wait().error, Stopped) for client in clients)
        for late in (lambda: Client(engine, Ask(tuple(b"abc"), 1)), lambda: engine.call(int)):
            with pytest.raises(Refused, match="stopping"):
                late()


def test_windows_are_kept_before_they_forget(decoder):
    """A long prompt in pieces, then again from the cache."""
    ask = Ask(tuple(TEXT[:50]), 5, sampling=Sampling(0.0))
    with writing(decoder, budget=7) as engine:
        assert len({Client(engine, ask).wait().text() for _ in range(3)}) == 1


@pytest.mark.parametrize("name", ["slots", "queue", "budget"])
def test_settings_are_refused(decoder, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"), writing(decoder, **{name: 0}):
        pass
