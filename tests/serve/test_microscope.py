"""What the microscope tells is what the decoder says, with and without interventions."""

import re

import numpy as np
import pytest

from moe_numpy.inference import Interventions, intervened
from moe_numpy.serve.page import STATIC
from moe_numpy.serve.sampling import log_probability

LOOK = "/microscope/api/look"


def read(decoder, ids):
    sequence, choices = decoder.new_sequence(), []
    logits = decoder.read((sequence, np.array(ids)), every=True, choices={sequence: choices})
    losses = [-log_probability(x, i, 0).value for x, i in zip(logits, ids[1:], strict=False)]
    return losses, choices


def test_the_model(server, published):
    told = server.http.get("/microscope/api/model").json()
    assert told["sparse_layers"] == [0, 1]
    assert told["layers"][0] == {
        "layer": 0, "kind": "sparse", "num_experts": 4, "top_k": 2, "selection": "top-2", "shared_expert": False,
        "top_k_can_change": True, "cache": None,
    }  # fmt: skip
    assert told["most_tokens"] == 64
    assert published.http.get("/microscope/api/model").json()["vocab_size"] == 320


def test_the_page_and_all_its_modules_are_served(server):
    page = server.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    wanted, seen = re.findall(r'src="([^"]+)"', page.text), set()
    while wanted:
        name = wanted.pop()
        module = server.http.get(f"/{name}")
        assert (module.status_code, module.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        seen.add(name)
        wanted += [each for each in re.findall(r'from "\./([^"]+)"', module.text) if each not in seen]
    assert seen | {"saved.js"} == {path.name for path in STATIC.glob("*.js")}


@pytest.mark.parametrize("off", [[], [1, 2]])
def test_losses_and_experts_of_each_token(server, off):
    body = {"text": "the cat", "tokens": 5, "seed": 3, "temperature": 0.8, "off": [{"layer": 1, "experts": off}]}
    told = server.http.post(LOOK, json=body).json()
    ids = [token["id"] for token in told["tokens"]]
    assert bytes(ids[:7]) == b"the cat"
    assert (told["prompt_tokens"], len(ids)) == (7, 12)
    decoder = intervened(server.served.decoder, Interventions(off={1: frozenset(off)} if off else {}))
    losses, choices = read(decoder, ids)
    assert told["tokens"][0]["loss"] is None
    np.testing.assert_allclose([token["loss"] for token in told["tokens"][1:]], losses, atol=1e-6)
    np.testing.assert_allclose(told["mean_loss"], np.mean(losses[:6]), atol=1e-6)
    for token, chosen in zip(told["tokens"], choices, strict=True):
        assert token["experts"] == [experts.tolist() for experts, _ in chosen.values()]
        assert not set(token["experts"][1]) & set(off)
    assert told["text"] == server.served.tokenizer.decode(ids[7:])


def test_no_more_is_written_than_fits(server):
    told = server.http.post(LOOK, json={"text": "a" * 60, "tokens": 9}).json()
    assert len(told["tokens"]) == 64


def test_pins_and_top_k_change_the_loss(server):
    plain = server.http.post(LOOK, json={"text": "the cat"}).json()
    told = {"pinned": [{"layer": 0, "position": 2, "expert": 3}], "top_k": [{"layer": 1, "k": 1}]}
    changed = server.http.post(LOOK, json={"text": "the cat", **told}).json()
    assert changed["tokens"][2]["experts"][0][0] == 3
    assert all(len(token["experts"][1]) == 1 for token in changed["tokens"])
    assert changed["mean_loss"] != plain["mean_loss"]
    assert server.http.post(LOOK, json={"text": "the cat"}).json() == plain


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"text": "a" * 65}, "context_length_exceeded"),
        ({"off": [{"layer": 7, "experts": [0]}]}, "invalid_intervention"),
        ({"top_k": [{"layer": 0, "k": 9}]}, "invalid_intervention"),
        ({"text": ""}, "invalid_value"),
    ],
)
def test_what_cannot_be(server, wrong, code):
    answer = server.http.post(LOOK, json={"text": "abc"} | wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


def test_only_a_few_at_once(server, monkeypatch):
    monkeypatch.setattr("moe_numpy.serve.microscope.AT_ONCE", 0)
    answer = server.http.post(LOOK, json={"text": "abc"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
