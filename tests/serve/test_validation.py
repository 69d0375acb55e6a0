"""Whatever is sent, the answer is a request or an error of ours."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_numpy.serve.errors import ApiError
from moe_numpy.serve.requests import ChatRequest, CompletionRequest, LookRequest, decoded

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=4), of, max_size=3)
)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()}))
NEAR = {
    "model": st.just("tiny"),
    "temperature": st.floats(0, 2),
    "n": st.integers(0, 3),
    "stop": st.text(max_size=3) | st.lists(st.text(max_size=3)),
    "logit_bias": st.dictionaries(st.integers(-1, 300).map(str), st.floats(-101, 101), max_size=2),
    "seed": st.integers(),
    "logprobs": st.integers(-1, 21) | st.booleans(),
    "max_tokens": st.integers(-1, 3),
    "echo": st.booleans(),
    "stream": st.booleans(),
    "routing": st.booleans(),
    "prompt": st.text(max_size=70) | st.lists(st.integers(-1, 300) | st.text(max_size=3), max_size=5),
    "messages": MESSAGES,
}  # fmt: skip
FIELDS = {name: of | ANYTHING for name, of in NEAR.items()}


@settings(max_examples=100, deadline=None)
@given(
    body=st.binary() | ANYTHING.map(lambda value: json.dumps(value).encode()),
    kind=st.sampled_from([CompletionRequest, ChatRequest, LookRequest]),
)
def test_any_body(body, kind):
    with pytest.raises(ApiError) as error:
        decoded(body, kind)
    assert error.value.status == 400


@settings(max_examples=60, deadline=None)
@given(fields=st.fixed_dictionaries({}, optional=FIELDS), path=st.sampled_from(["completions", "chat/completions"]))
def test_nearly_right_requests_never_break_the_server(server, fields, path):
    least = {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    fields = {"model": "tiny"} | least | fields
    answer = server.http.post(f"/v1/{path}", content=json.dumps(fields), headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    elif fields.get("stream") is not True:
        assert len(answer.json()["choices"]) >= 1
    else:
        assert answer.text.endswith("data: [DONE]\n\n")
    assert server.engine.decoder is server.served.decoder


def test_a_number_is_the_same_however_it_is_written():
    body = b'{"model": "m", "prompt": [1.0, 2], "n": 2.0, "temperature": 1, "logit_bias": {"7": 1.0}}'
    request = decoded(body, CompletionRequest)
    assert (request.prompts(), request.n, request.temperature, request.logit_bias) == ([[1, 2]], 2, 1.0, {7: 1.0})
    with pytest.raises(ApiError, match="got `float`"):
        decoded(b'{"model": "m", "prompt": "a", "n": 2.5}', CompletionRequest)


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"temperature": 3}, "temperature", "temperature: Expected `float` <= 2.0"),
        ({"tempe": 3}, "tempe", "tempe is not a field of this request"),
        ({"stream_options": {"x": 1}}, "stream_options.x", "stream_options.x is not a field of this request"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "missing required field `content`"),
        ({"frequency_penalty": 1}, "frequency_penalty", "Expected `float` <= 0.0"),
    ],
)
def test_errors_name_the_field(given, param, message):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}]} | given
    with pytest.raises(ApiError) as error:
        decoded(json.dumps(body).encode(), ChatRequest)
    assert error.value.param == param
    assert message in error.value.message
