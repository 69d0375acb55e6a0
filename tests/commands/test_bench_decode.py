import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

import benchmarks.__main__ as benchmarks
from benchmarks import bandwidth, candidates, decode, random_model, timing
from benchmarks.candidates import Answer, Ours
from benchmarks.peer_process import PeerError
from benchmarks.weights_read import Numbers, Weights, bits_of
from moe_numpy.inference import Decoder
from moe_numpy.pretrained import TensorFiles, from_pretrained

TINY = random_model.MODELS["qwen3-moe-701m"] | {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
QUICK = ["--rounds", "1", "--seconds", "0", "--batch", "1", "--batch", "3"]


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(decode, "PROMPT", 6)
    monkeypatch.setattr(decode, "TOKENS", 3)
    monkeypatch.setattr(bandwidth, "SIZE", 1 << 16)
    monkeypatch.setattr(timing, "_PAUSE", 0)
    monkeypatch.setattr(random_model, "MODELS", {"tiny": TINY})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    random_model.write_random_model(place, TINY)
    return place


def run(*arguments):
    return CliRunner().invoke(benchmarks.app, ["decode", *QUICK, *arguments], env={"COLUMNS": "120"})


def stand_in(decoder, wrong=False):
    """A peer that is our decoder, with times of its own."""

    class StandIn:
        def answer(self, texts, tokens, *, fresh, top=0):
            told = Ours(decoder).answer(texts, tokens, fresh=fresh, top=top)
            first = [(token, p - 2) for token, p in told.top] if wrong else told.top
            return Answer(0.5, 0.25, told.new, first)

    return StandIn()


@contextmanager
def opened_llama_cpp(folder, format, num_texts, num_tokens):
    yield stand_in(Decoder(from_pretrained(folder))), Weights(1e6, 1e4, 2)


def test_every_candidate_has_a_row_for_every_work(small):
    result = run("--json", "--format", "bfloat16", "--format", "int4")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    named = [(row["work"], row["texts"], row["candidate"]) for row in rows]
    works = [("prompt", 1), ("decode", 1), ("decode", 3)]
    assert named == [(*work, f"moe_numpy {format}") for work in works for format in ("bfloat16", "int4")]
    for row in rows:
        assert row["best"] == row["tokens_per_s"] > 0
        if row["work"] == "prompt":
            assert row["share"] is None
        else:
            assert row["share"] == pytest.approx(row["tokens_per_s"] / row["bound"])
            per_call = row["texts"] * row["bandwidth_gb"] * 1e3 / row["mb_per_call"]
            assert row["bound"] == pytest.approx(per_call)
    assert rows[0]["max_abs_error"] == 0
    assert rows[2]["experts"] == 2  # per token
    assert 2 < rows[4]["experts"] <= 6
    assert list(small.iterdir()) == []


def test_a_table_for_people(small):
    result = run("--format", "int8")
    assert result.exit_code == 0, result.output
    assert "compare figures of a quiet machine only" in result.output
    last = result.output.splitlines()[-2:]
    assert last[0].split() == ["tokens/s", "(share", "of", "the", "bound)", "prompt", "1", "text", "3", "texts"]
    assert last[1].startswith("moe_numpy int8")
    assert last[1].count("%)") == 2


@pytest.mark.parametrize("memory", [1e12, 1])
def test_peers_stand_beside_ours(small, monkeypatch, memory):
    monkeypatch.setattr(candidates, "llama_cpp", opened_llama_cpp)
    monkeypatch.setattr(decode, "_physical", lambda: memory)
    monkeypatch.setitem(benchmarks.PACKAGES, benchmarks.Peer.LLAMA_CPP, ())
    result = run("--against", "llama.cpp", "--format", "bfloat16", "--format", "float32", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    names = ["moe_numpy bfloat16", "moe_numpy float32", "llama.cpp F16"]  # nothing is near to float32
    apart = [name for name in names for _ in range(3)]
    assert [row["candidate"] for row in rows] == (apart if memory == 1 else names * 3)
    assert {row["in_turn"] for row in rows} == {memory != 1}
    of_peer = [row for row in rows if row["candidate"] == "llama.cpp F16"]
    assert [row["tokens_per_s"] for row in of_peer] == [6 / 0.5, 3 / 0.25, 9 / 0.25]
    assert of_peer[2]["mb_per_call"] == pytest.approx((1e6 + 2 * of_peer[2]["experts"] * 1e4) / 1e6)


def test_another_model_is_not_measured(small, monkeypatch):
    @contextmanager
    def opened(folder, *arguments):
        yield stand_in(Decoder(from_pretrained(folder)), wrong=True), Weights(1, 1, 2)

    monkeypatch.setattr(candidates, "llama_cpp", opened)
    monkeypatch.setitem(benchmarks.PACKAGES, benchmarks.Peer.LLAMA_CPP, ())
    result = run("--against", "llama.cpp", "--format", "bfloat16")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: llama.cpp F16 is another model")
    assert list(small.iterdir()) == []


def test_of_few_bits_the_error_is_told_only(folder):
    candidate = stand_in(Decoder(from_pretrained(folder)), wrong=True)
    top = Ours(Decoder(from_pretrained(folder))).answer([[5, 6]], 0, fresh=True, top=3).top
    assert decode.error_of("llama.cpp Q4_0", candidate, [5, 6], top) == pytest.approx(2)
    assert decode.error_of("llama.cpp Q4_0", candidate, [5, 6], []) is None
    with pytest.raises(PeerError):
        decode.error_of("llama.cpp F16", candidate, [5, 6], [])


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("llama.cpp", "needs xllamacpp; install both with: python -m pip install xllamacpp gguf"),
        ("transformers", "needs torch; install both with: python -m pip install torch transformers"),
    ],
)
def test_a_missing_peer_is_one_line(monkeypatch, peer, told):
    for package in ("xllamacpp", "torch"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    result = run("--against", peer)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert told in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "huge"], "model must be one of qwen3-moe-701m, olmoe-1b-7b, or the config.json of another"),
        (["--model", "nothing/config.json"], "nothing/config.json: No such file"),
        (["--format", "int3"], "format must be one of float32, bfloat16"),
        (["--against", "torch"], "--against torch is for layer and step, and decode was asked for"),
        (["--device", "cuda"], "CuPy is missing"),
        (["--shape", "1,2,3,4,5"], "--shape is for layer, and decode was asked for"),
    ],
)
def test_what_cannot_be_decoded_is_refused(monkeypatch, arguments, told):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    result = run(*arguments)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert told in result.stderr


@pytest.mark.parametrize("option", [["--model", "olmoe-1b-7b"], ["--format", "int8"], ["--against", "llama.cpp"]])
def test_of_a_layer_nothing_is_decoded(option):
    result = CliRunner().invoke(benchmarks.app, ["layer", *option])
    assert result.exit_code == 2
    assert re.search("is for decode.*, and layer was asked for", result.stderr)


@pytest.mark.parametrize("change", [{"max_position_embeddings": 100}, {"mlp_only_layers": [0, 1]}])
def test_a_model_must_have_experts_and_room(change):
    with pytest.raises(ValueError, match="must have experts and a context of at least 146"):
        decode.Plan(TINY | change)


def test_a_family_that_llama_cpp_is_not_given():
    with pytest.raises(ValueError, match=r"llama.cpp is measured with qwen3_moe, olmoe, the model is 'mixtral'"):
        decode.Plan(
            {
                "model_type": "mixtral", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "num_local_experts": 4,
                "max_position_embeddings": 4096,
            },
            ["llama.cpp"],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("peers", "memory", "needed"),
    [
        ([], 1e12, 13.84 + 5),
        (["llama.cpp"], 1e9, 2 * 13.84),
        (["llama.cpp"], 1e12, 13.84 * (1 + (16 + 8.5 + 4.5) / 16)),
    ],
)
def test_a_full_disk_is_said_before(monkeypatch, peers, memory, needed):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 2**30})())
    monkeypatch.setattr(decode, "_physical", lambda: memory)
    with pytest.raises(ValueError, match=rf"has 1\.1 GB free, this model needs {needed:.1f} GB"):
        decode.Plan(random_model.MODELS["olmoe-1b-7b"], peers).require_room()
    decode.Plan(TINY, peers).require_room()


def test_the_model_on_the_disk(folder):
    files = TensorFiles.open(folder)
    assert {tensor.dtype for tensor in files.values()} == {"BF16"}
    down, embedding = files["model.layers.1.mlp.experts.7.down_proj.weight"], files["model.embed_tokens.weight"]
    assert down.float32().std() == pytest.approx(32**-0.5, rel=0.1)
    assert embedding.float32().std() == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(files["model.norm.weight"].float32(), 1)
    assert not np.array_equal(down.float32(), files["model.layers.1.mlp.experts.6.down_proj.weight"].float32())


def test_the_weights_that_a_token_reads(folder):
    """Per layer: attention 2 · 32 · 32 + 2 · 16 · 32, an expert 3 · 32 · 32, the router 8 · 32."""
    numbers = Numbers.of(from_pretrained(folder))
    assert numbers == Numbers(2 * 3072 + 300 * 32, 2 * (256 + 2 * 32 + 2 * 16) + 32, 3072, 16, 2)
    weights = numbers.stored(8.5)
    assert weights.of_call(2.5) == numbers.dense * 8.5 / 8 + numbers.kept * 4 + 2 * 2.5 * 3072 * 8.5 / 8
    assert bits_of("int8") == 8.5


def test_distinct_experts(folder):
    model = from_pretrained(folder)
    texts = np.array([[5, 6, 7, 8], [9, 6, 3, 4], [5, 6, 7, 8]])
    routings = model(texts).routings
    expected = {
        batch: np.mean(
            [
                len({int(e) for t, e in zip(routing.token, routing.expert, strict=True) if t in late})
                for routing in routings
                for late in ([position + 4 * text for text in range(batch)] for position in (2, 3))
            ]
        )
        for batch in (1, 3)
    }
    assert decode.distinct_experts(model, texts, 2, (1, 3)) == expected
    assert expected[1] == 2 < expected[3]


def test_ours_writes_what_the_model_says(folder):
    model = from_pretrained(folder)
    text, ours = [5, 6, 7], Ours.of(model, "bfloat16")
    answer = ours.answer([text, [8, 9, 10]], 2, fresh=True, top=2)
    whole = list(text)
    for token in answer.new[0]:
        logits = model(np.array([whole])).logits.data[0, -1].astype(np.float64)
        assert token == logits.argmax()
        whole.append(token)
    again = ours.answer([text, [8, 9, 10]], 2, fresh=False, top=2)
    assert again.new == answer.new
    assert again.prompt_s < answer.prompt_s
    first = model(np.array([text])).logits.data[0, -1].astype(np.float64)
    logs = first - np.log(np.exp(first).sum())
    for token, p in answer.top:
        assert p == pytest.approx(logs[token], abs=1e-4)


def test_memory_is_read_once(monkeypatch):
    monkeypatch.setattr(bandwidth, "SIZE", 8 * 1001)
    memory = bandwidth.Memory(3)
    assert memory.nbytes == 8 * 1001
    for total in memory.sums.values():
        assert sum(map(total, memory.parts)) == 1000 * 1001 // 2
    assert memory.seconds() > 0


def test_a_config_of_ones_own(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    assert random_model.settings_of(str(path)) == TINY
