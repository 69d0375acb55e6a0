"""OpenAI's own client as the peer."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openai
import pytest
from small_servers import CONTEXT, serving, until

from moe_numpy.inference import write
from moe_numpy.models.text import ByteTokenizer, streamed
from moe_numpy.pretrained import PublishedTokenizer

GREEDY = {"model": "tiny", "temperature": 0}


def solo(served, prompt, num_tokens, seed=0, temperature=0.0):
    """The text that is written alone."""
    ids, rng = np.array(served.tokenizer.encode(prompt)), np.random.default_rng(seed)
    new = write(served.decoder, ids, num_tokens, rng=rng, temperature=temperature, top_p=1.0)
    return "".join(streamed(served.tokenizer, new))


def test_models(server):
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").owned_by == "moe_numpy"
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        server.client.models.retrieve("other")


def test_a_completion_whole_and_streamed(server):
    whole = server.client.completions.create(prompt="the cat ", max_tokens=12, **GREEDY)
    assert whole.choices[0].text == solo(server.served, "the cat ", 12)
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (8, 12, 20)
    chunks = list(
        server.client.completions.create(
            prompt="the cat ", max_tokens=12, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert all(chunk.choices[0].finish_reason is None and chunk.usage is None for chunk in chunks[:-2])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12


def test_a_chat_streams_role_then_text_then_end(server):
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    chunks = list(
        server.client.chat.completions.create(messages=messages, max_completion_tokens=9, stream=True, **GREEDY)
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert all(delta.role is None for delta in deltas[1:])
    assert chunks[-1].choices[0].finish_reason == "length"
    text = "".join(delta.content or "" for delta in deltas)
    assert text == solo(server.served, "be brief\nhi", 9)
    whole = server.client.chat.completions.create(messages=messages, max_tokens=9, **GREEDY)
    assert whole.choices[0].message.content == text
    assert whole.choices[0].message.role == "assistant"


def test_a_chat_goes_on_to_the_end_of_the_context(server):
    answer = server.client.chat.completions.create(messages=[{"role": "user", "content": "abc"}], **GREEDY)
    assert answer.usage.completion_tokens == CONTEXT - 3
    assert answer.choices[0].finish_reason == "length"


def test_the_template_of_a_published_model(published):
    messages = [{"role": "user", "content": "the cat"}]
    answer = published.client.chat.completions.create(
        model="published", messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    ids = PublishedTokenizer.open(published.served.template.path.parent).encode_plain("<|user|>the cat<|assistant|>")
    assert answer.usage.prompt_tokens == len(ids)
    rng = np.random.default_rng()
    new = list(write(published.served.decoder, np.array(ids), 8, rng=rng, temperature=0, end_ids={1}))
    told = answer.choices[0].logprobs.content
    assert [bytes(each.bytes) for each in told] == [published.served.tokenizer.bytes_of(id) for id in new]
    assert all(each.top_logprobs[0].logprob == each.logprob for each in told)  # greedy
    assert answer.choices[0].message.content == "".join(streamed(published.served.tokenizer, new))


def test_the_end_of_a_text_stops_it(published):
    (end,) = published.served.tokenizer.end_ids
    answer = published.client.completions.create(
        model="published", prompt="the", max_tokens=8, logit_bias={str(end): 100}, logprobs=0
    )
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.logprobs.tokens) == ("", "stop", [])
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(server, stream):
    text = solo(server.served, "abc", 30)
    stop = text[4:7]
    answer = server.client.completions.create(prompt="abc", max_tokens=30, stop=["~~~~", stop], stream=stream, **GREEDY)
    choices = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    assert "".join(choice.text for choice in choices) == text[: text.find(stop)]
    assert choices[-1].finish_reason == "stop"


def test_logprobs_and_echo_of_a_completion(server):
    answer = server.client.completions.create(prompt="abc", max_tokens=4, logprobs=3, echo=True, **GREEDY).choices[0]
    told = answer.logprobs
    assert answer.text.startswith("abc")
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 7
    assert told.token_logprobs[0] is None
    assert all(value <= 0 for value in told.token_logprobs[1:])
    assert all(len(top) == 3 for top in told.top_logprobs[1:])
    assert told.text_offset[:4] == [0, 1, 2, 3]


def test_seed_n_and_temperature(server):
    def texts(**settings):
        answer = server.client.completions.create(model="tiny", prompt="abc", max_tokens=15, **settings)
        return [choice.text for choice in answer.choices]

    first = texts(seed=7, n=3)
    assert first == texts(seed=7, n=3)
    assert len(set(first)) == 3
    assert first[0] == solo(server.served, "abc", 15, 7, 1.0)
    assert texts(seed=8) != first[:1]
    assert texts() != texts()  # another draw each time
    assert len(set(texts(temperature=0, n=4))) == 1


def test_several_prompts_and_token_ids(server):
    def texts(prompt, n=1):
        answer = server.client.completions.create(prompt=prompt, max_tokens=5, n=n, **GREEDY)
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    alone = [solo(server.served, prompt, 5) for prompt in ("abc", "xyz")]
    assert texts(["abc", "xyz"], 2) == [alone[0], alone[0], alone[1], alone[1]]
    assert texts([97, 98, 99]) == alone[:1]
    assert texts([[97, 98, 99], [120, 121, 122]]) == alone


def test_logit_bias_forbids_and_forces(server):
    answer = server.client.completions.create(prompt="abc", max_tokens=4, logit_bias={"65": 100}, **GREEDY)
    assert answer.choices[0].text == "AAAA"


def test_routing_of_each_token(server):
    body = {**GREEDY, "prompt": "abc", "max_tokens": 6, "routing": True}
    whole = server.http.post("/v1/completions", json=body).json()["choices"][0]
    ids = np.array([97, 98, 99, *(token["id"] for token in whole["routing"])])
    decoder = server.served.decoder
    sequence, choices = decoder.new_sequence(), []
    decoder.read((sequence, ids), choices={sequence: choices})
    for token, expected in zip(whole["routing"], choices[3:], strict=True):
        assert token["experts"] == [experts.tolist() for experts, _ in expected.values()]
        np.testing.assert_allclose(token["gates"], [gates for _, gates in expected.values()], atol=1e-6)
    with server.http.stream("POST", "/v1/completions", json=body | {"stream": True, "echo": True}) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line)["choices"][0] for line in lines[:-1]]
    told = [token for chunk in chunks for token in chunk.get("routing", [])]
    assert told[3:] == whole["routing"]
    assert [token["token"] for token in told[:3]] == ["a", "b", "c"]


def test_sixteen_clients_get_what_each_gets_alone(server):
    prompts = ["the cat sat on the mat "[: 1 + i] * (1 + i % 3) for i in range(16)]
    prompts = [prompt[:40] for prompt in prompts]
    lengths = [3 + 5 * i % 23 for i in range(16)]
    start = threading.Barrier(16)

    def ask(i):
        start.wait()
        settings = {"model": "tiny", "prompt": prompts[i], "max_tokens": lengths[i], "seed": i, "temperature": i % 2}
        if i % 4 < 2:
            return server.client.completions.create(**settings).choices[0].text
        return "".join(chunk.choices[0].text for chunk in server.client.completions.create(stream=True, **settings))

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(ask, range(16)))
    assert texts == [solo(server.served, prompts[i], lengths[i], i, float(i % 2)) for i in range(16)]


def test_errors_of_the_client(server):
    create = server.client.completions.create
    with pytest.raises(openai.NotFoundError) as error:
        create(model="other", prompt="a")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as error:
        create(model="tiny", prompt="a" * 200)
    assert (error.value.code, error.value.param) == ("context_length_exceeded", "prompt")
    for settings in ({"temperature": 3}, {"n": 0}, {"logit_bias": {"999": 1}}, {"top_p": 0}, {"stop": ["a"] * 5}):
        with pytest.raises(openai.BadRequestError) as error:
            create(model="tiny", prompt="a", **settings)
        assert error.value.param in settings
    messages, tool = [{"role": "user", "content": "a"}], {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError, match="tools"):
        server.client.chat.completions.create(model="tiny", messages=messages, tools=[tool])


def test_an_error_in_the_middle_of_a_stream(bytes_served, monkeypatch, caplog):
    from moe_numpy.serve.sampling import Sampling

    real = Sampling.draw
    monkeypatch.setattr(
        Sampling, "draw", lambda self, logits, rng: real(self, logits * (np.nan if rng.random() < 0.3 else 1), rng)
    )
    with serving(bytes_served) as server, pytest.raises(openai.APIError, match="the model failed on this request"):
        for _ in server.client.completions.create(model="tiny", prompt="a", max_tokens=60, seed=1, stream=True):
            pass
    assert "an answer failed" in caplog.text


def test_two_hundred_requests_leave_nothing(server):
    def ask(i):
        return server.http.post("/v1/completions", json={**GREEDY, "prompt": "ab"[i % 2], "max_tokens": 1}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(200))) == {200}
    engine = server.engine
    until(lambda: engine.busy == engine.waiting == 0 and not engine._jobs)
    until(lambda: len(server.server.server_state.tasks) == 0)
    assert len(engine._active) == len(engine._waiting) == 0


def test_a_byte_tokenizer_never_sends_half_a_character(server):
    assert isinstance(server.served.tokenizer, ByteTokenizer)
    euro = list("€".encode())
    chunks = server.client.completions.create(
        model="tiny", prompt=[97, *euro[:2]], max_tokens=2, logit_bias={str(euro[2]): 100}, stream=True, temperature=0
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "\ufffd" * 2
