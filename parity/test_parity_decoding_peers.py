"""The peers of ``bench decode`` are given the same model: the same likeliest tokens, and the same greedy text."""

import pytest

from benchmarks import candidates, gguf_file
from benchmarks.random_model import MODELS, write_random_model
from moe_numpy.pretrained import from_pretrained

TEXTS = [[5, 6, 7, 200, 31], [90, 11, 12, 8, 9]]
SMALL = {
    "vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
FAMILIES = {
    "qwen3_moe": MODELS["qwen3-moe-701m"] | SMALL | {"moe_intermediate_size": 256},
    "olmoe": MODELS["olmoe-1b-7b"] | SMALL | {"intermediate_size": 256},
}


@pytest.fixture(params=FAMILIES, scope="module")
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    write_random_model(folder, FAMILIES[request.param])
    expected = candidates.Ours.of(from_pretrained(folder), "bfloat16").answer(TEXTS, 3, fresh=True, top=5)
    return folder, expected


def difference(answer, expected):
    """Of the log probabilities that both list, at least two."""
    top = dict(expected.top)
    common = [(p, top[token]) for token, p in answer.top if token in top]
    assert len(common) > 1
    return max(abs(a - b) for a, b in common)


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_transformers(model, implementation):
    folder, expected = model
    with candidates.transformers(folder, implementation) as (peer, weights):
        answer = peer.answer(TEXTS, 3, fresh=True, top=5)
        assert difference(answer, expected) < 0.1  # activations of 8 bits
        assert peer.answer(TEXTS, 3, fresh=False).new == answer.new
    assert weights.dense > 0


@pytest.mark.parametrize(("format", "error"), [("F16", 0.01), ("Q8_0", 0.1), ("Q4_0", 1), ("Q4_K_M", 1), ("MXFP4", 2)])
def test_llama_cpp(model, format, error):
    folder, expected = model
    with candidates.llama_cpp(folder, format, 2, 16) as (peer, weights):
        answer = peer.answer(TEXTS, 3, fresh=True, top=5)
        assert difference(answer, expected) < error
        if format == "F16":
            assert answer.new == expected.new
        assert peer.answer(TEXTS, 3, fresh=False).new == answer.new
    bits = {"F16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "MXFP4": 4.25}.get(format)
    if bits is not None:
        assert weights.expert == 3 * 256 * 256 * bits / 8
    assert not list(folder.glob("*.gguf"))


def test_q6_k_where_llama_quantize_puts_it(model):
    from gguf import GGMLQuantizationType as Kind

    def kind(name, num_layers=16):
        return gguf_file._kind(name, (256, 256), "Q4_K_M", num_layers)

    assert kind("output.weight") == Kind.Q6_K
    assert kind("token_embd.weight") == Kind.Q4_K
    assert kind("blk.3.ffn_gate_inp.weight") == Kind.F32
    finer = [i for i in range(16) if kind(f"blk.{i}.ffn_down_exps.weight") == Kind.Q6_K]
    assert finer == [0, 1, 4, 7, 10, 13, 14, 15]
