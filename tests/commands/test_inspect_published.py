"""A published model under the microscope: tables, document, PNGs, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.pretrained import from_pretrained, save_pretrained
from moe_numpy.pretrained.converting import converted

tokenizers = pytest.importorskip("tokenizers")
TEXT = "The cat sat on the mat, and the dog did not. 12 + 30 = 42; naïve 日本 \\ " * 80
FIGURES = [
    "expert_by_domain", "expert_by_token", "expert_by_position", "expert_load", "co_activation", "explained_by_layer",
    "sentence_routing",
]  # fmt: skip


def publish(folder, *, num_experts=4, top_k=2, num_layers=2, vocab_size=400, family="mixtral"):
    """A random model with a byte-level tokenizer that begins each text with <s>."""
    config = ModelConfig(
        d_model=16, num_layers=num_layers, num_heads=2, num_kv_heads=1, context=64, d_ff=8, num_experts=num_experts,
        recipe_settings={"top_k": top_k} if num_experts else {}, vocab_size=vocab_size,
    )  # fmt: skip
    save_pretrained(converted(Transformer(config, rng=np.random.default_rng(0)), family), folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="module")
def _published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for name, settings in {"few": {}, "many": {"num_experts": 130, "top_k": 8, "num_layers": 5}}.items():
        publish(folder / name, **settings)
    return folder


@pytest.fixture
def folder(_published):
    shutil.copytree(_published, ".", dirs_exist_ok=True)
    Path("notes").mkdir()
    Path("notes/a.txt").write_text(TEXT)
    Path("sums.txt").write_text("".join(f"{a} + {b} = {a + b}\n" for a in range(20) for b in range(20)))
    return Path()


@pytest.fixture
def document(cli, folder):
    def read(*arguments):
        result = cli("inspect", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return read


def test_json_has_every_table_and_nothing_is_written(document, folder):
    before = sorted(Path("few").iterdir())
    found = document("few", "--text", "notes", "--text", "sums.txt", "--sentence", "The cat")
    assert (found["model"], found["domains"], found["layers"]) == ("few", ["notes", "sums"], [0, 1])
    assert found["figures"] == []
    assert sorted(Path("few").iterdir()) == before
    assert np.shape(found["domain_expert_by_layer"]) == (2, 2, 4)
    assert found["positions"] == ["1", "2-3", "4-7", "8-15", "16-31", "32-63"]  # <s> is at 0, and no text
    np.testing.assert_allclose(np.sum(found["position_expert_by_layer"], axis=2), 1)
    np.testing.assert_allclose(np.sum(found["expert_load"], axis=1), 1)
    assert list(found["explained_by_layer"]) == ["token", "token before", "position", "domain"]
    assert all(t["count"] >= 10 and t["lift"] > 1 for of in found["typical_tokens_by_layer"][0] for t in of)
    assert found["sentence"]["names"] == ["<s>", "The", "␣cat"]


def test_each_token_of_a_small_text_is_counted_once(document, folder):
    tokenizer = tokenizers.Tokenizer.from_file("few/tokenizer.json")
    found = document("few", "--text", "notes", "--text", "sums.txt", "--tokens", 10**6)
    texts = TEXT, Path("sums.txt").read_text()
    assert found["tokens"] == sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert 0 < document("few", "--text", "notes", "--tokens", 100)["tokens"] <= 100


def test_the_sentence_is_routed_as_the_model_does(document, folder):
    found = document("few", "--sentence", "The cat sat", "--layer", 1, "--text", "notes")["sentence"]
    model = from_pretrained("few")
    routing = model(np.array([found["tokens"]])).routings[1]
    gates = {(t, e): g for t, e, g in zip(routing.token, routing.expert, routing.gate.data, strict=True)}
    shown = {(t, each["expert"]): each["gate"] for t, of in enumerate(found["experts"]) for each in of}
    assert shown == pytest.approx(gates)
    for t, first in enumerate(found["first_choice_by_layer"][1]):
        assert gates[t, first] == max(g for (token, _), g in gates.items() if token == t)


@pytest.mark.parametrize("name", ["few", "many"])
def test_tables_fit_80_columns(cli, folder, name):
    result = cli("inspect", name, "--text", "notes", "--text", "sums.txt", "--sentence", "The cat 日本 \\")
    assert result.exit_code == 0, result.output
    assert all(cell_len(line.rstrip()) <= 80 for line in result.stdout.splitlines())
    assert "…" not in result.stdout
    for title in (
        "what explains the first choice", "which experts take which domain", "which position in the window",
        "the most typical tokens of each expert", "chosen together more often", "the experts of each token",
        "No PNGs were written; --out FOLDER says where they go.",
    ):  # fmt: skip
        assert title in result.stdout
    assert "\x1b" not in result.stdout


def test_one_row_per_token_with_all_its_experts(cli, document, folder):
    lines = cli("inspect", "many", "--text", "notes", "--sentence", "cat\n日 \\", "--layer", 3).stdout.splitlines()
    found = document("many", "--text", "notes", "--sentence", "cat\n日 \\", "--layer", 3)["sentence"]
    start = next(i for i, line in enumerate(lines) if line.split() == ["token", "expert", "gate"]) + 1
    assert len(found["names"]) > 4
    for line, name, experts in zip(lines[start:], found["names"], found["experts"], strict=False):
        shown, *cells = line.split()
        assert shown == name
        experts = sorted(experts, key=lambda each: -each["gate"])
        assert cells[::2] == [str(each["expert"]) for each in experts]
        assert cells[1::2] == [f"{each['gate']:.2f}".removeprefix("0") for each in experts]


@pytest.mark.usefixtures("drawn")
def test_figures_go_where_they_are_told(document, folder):
    found = document("few", "--text", "notes", "--text", "sums.txt", "--out", "new/pngs")
    assert found["figures"] == [f"new/pngs/{name}.png" for name in FIGURES]
    assert all(Path(figure).read_bytes().startswith(b"\x89PNG") for figure in found["figures"])


def test_one_domain_is_explained_by_none(document, folder):
    found = document("few", "--text", "notes")
    assert list(found["explained_by_layer"]) == ["token", "token before", "position"]


def test_top_1_has_no_pairs(cli, folder):
    publish(Path("one"), top_k=1)
    result = cli("inspect", "one", "--text", "notes")
    assert result.exit_code == 0, result.output
    assert "chosen together" not in result.stdout
    assert cli("inspect", "one", "--text", "notes", "--out", "pngs").exit_code == 0
    assert not Path("pngs/co_activation.png").exists()


def test_refusals(refused, folder):
    for name in ("empty", "hidden"):
        Path(name).mkdir()
    Path("hidden/.secret").write_text("words")
    Path("nothing.txt").write_text("")
    expected = {
        ("few", "--layer", 2): "--layer must be one of the layers with experts, [0, 1], got 2",
        ("few", "--step", 1): "--step 1: few is a published model, which has no checkpoints",
        ("few", "--text", "empty"): "cannot route this text: empty: holds no text file (0 skipped)",
        ("few", "--text", "hidden"): "hidden: holds no text file (1 skipped)",
        ("few", "--text", "nothing.txt"): "nothing.txt: is empty",
        ("few", "--text", "missing"): "missing: does not exist",
        ("few", "--text", "notes", "--text", "notes/a.txt"): "overlap",
        ("few", "--text", "notes", "--text", "sums.txt", "--tokens", 1): "tokens at least 2",
        ("few", "--sentence", "cat " * 99): "1 to context=64 tokens, got",
        ("few", "--out", "sums.txt"): "--out: sums.txt is not a folder",
    }
    for arguments, message in expected.items():
        error = refused("inspect", *arguments)
        assert message in error
        assert error.count("\n") == 1


def test_models_that_cannot_be_looked_at(refused, folder):
    publish(Path("dense"), num_experts=0, family="llama")
    assert "dense is dense: it has no experts to inspect" in refused("inspect", "dense")
    Path("few/tokenizer.json").unlink()
    assert "few has no tokenizer.json; without it a text has no token ids" in refused("inspect", "few")
    Path("few/config.json").write_text("{")
    assert "config.json" in refused("inspect", "few")


def test_tokens_that_the_model_does_not_have(refused, folder):
    publish(Path("small"), vocab_size=290)
    error = refused("inspect", "small", "--text", "notes")
    assert "small/tokenizer.json makes" in error
    assert "the model has only 290 tokens" in error


def test_a_text_without_tokens(refused, folder):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cat": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.save("few/tokenizer.json")
    Path("blank.txt").write_text(" \n ")
    assert "the text has no tokens" in refused("inspect", "few", "--text", "blank.txt")


def test_a_run_of_a_published_model_has_its_tokens(cli, folder):
    arguments = [
        "train",
        "--from",
        "few",
        "--text",
        "notes",
        "--steps",
        "2",
        "--context",
        "16",
        "--batch-size",
        "2",
        "--out",
        "run",
    ]
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    result = cli("inspect", "run", "--sentence", "The cat")
    assert result.exit_code == 0, result.output
    assert "run after step 2: 4 experts, 2 per token." in result.stdout
    assert "run/expert_by_token.png" in result.stdout
    document = json.loads(cli("inspect", "run", "--text", "sums.txt", "--tokens", 40, "--json").stdout)
    assert (document["run"], document["step"], document["domains"]) == ("run", 2, ["sums"])
    assert 0 < document["tokens"] <= 40
    assert "byte_classes" not in document


def test_a_converted_run_is_the_run(cli, trained):
    assert cli("convert", trained, "out", "--to", "mixtral").exit_code == 0
    text = trained.parent / "sums.txt"
    arguments = ("--text", text, "--out", "pngs", "--json")
    ours, theirs = (json.loads(cli("inspect", each, *arguments).stdout) for each in (trained, "out"))
    assert ours["tokens"] == theirs["tokens"] == len(text.read_bytes())
    for name in ("expert_load", "position_expert_by_layer", "explained_by_layer", "chosen_together_by_layer"):
        assert ours[name] == theirs[name]
