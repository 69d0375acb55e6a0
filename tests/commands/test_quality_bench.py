import json
import math
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import held_out, one_expert, quality
from moe_numpy.formats import FORMATS, quantise
from moe_numpy.inference import Decoder
from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.training import Corpus, Domain, presets
from moe_numpy.training.evaluation import evaluate

CONFIG = ModelConfig(d_model=32, num_layers=2, num_heads=2, num_kv_heads=1, context=8, d_ff=32, num_experts=4)


@pytest.fixture(scope="module")
def model():
    return Transformer(CONFIG, rng=np.random.default_rng(0)).eval()


@pytest.fixture(scope="module")
def corpus():
    rng = np.random.default_rng(1)
    texts = [rng.integers(97, 100, (2, 60)).astype(np.uint8) for _ in range(2)]
    return Corpus(Domain(name, *text) for name, text in zip("ab", texts, strict=True))


def nothing():
    pass


def test_losses_are_those_of_the_model(model, corpus):
    windows, seen = corpus.validation_windows(8), []
    losses = held_out.window_losses(Decoder(model), windows, lambda: seen.append(1))
    assert losses.shape == (14,) == (len(seen),)
    assert losses.mean() == pytest.approx(evaluate(model, windows, 2).loss, rel=1e-5)
    tokens_of_two = held_out.window_losses(Decoder(model), replace(windows, bytes_per_token=2.0), nothing)
    np.testing.assert_allclose(tokens_of_two, losses / 2)


def test_windows_read_together_or_one_by_one(model, corpus, monkeypatch):
    windows = corpus.validation_windows(8)
    together = held_out.window_losses(Decoder(model), windows, nothing)
    monkeypatch.setattr(held_out, "_ROWS", 24)
    np.testing.assert_array_equal(held_out.window_losses(Decoder(model), windows, nothing), together)


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    reference = rng.normal(2, 1, 400)
    apart = held_out.Difference.between(reference + 0.01 + rng.normal(0, 0.001, 400), reference)
    assert apart.mean == pytest.approx(0.01, abs=3e-4)
    assert apart.error == pytest.approx(0.001 / 20, rel=0.2)
    assert held_out.Difference.between(np.ones(1), np.zeros(1)).error == 0


def test_one_expert_is_rounded_and_comes_back(model):
    weights = one_expert.expert_weights(one_expert.sparse_layers(model)[1])
    assert [w.shape for w in weights] == [(4, 64, 32), (4, 32, 32)]
    before = [w.copy() for w in weights]
    with one_expert.rounded(weights, 2, "int4") as error:
        for w, old in zip(weights, before, strict=True):
            np.testing.assert_array_equal(w[2], quantise(old[2], "int4").dequantise())
            np.testing.assert_array_equal(np.delete(w, 2, 0), np.delete(old, 2, 0))
        assert 0.02 < error < 0.2
    for w, old in zip(weights, before, strict=True):
        np.testing.assert_array_equal(w, old)


def test_an_expert_that_no_token_sees_costs_nothing(model, corpus):
    windows = corpus.validation_windows(8, 2)
    reference = held_out.window_losses(Decoder(model), windows, nothing)
    rows = one_expert.damage(model, windows, reference, "int4", nothing)
    assert [(row["layer"], row["expert"]) for row in rows] == [(i, e) for i in range(2) for e in range(4)]
    assert sum(row["share"] for row in rows if row["layer"] == 0) == pytest.approx(2)  # top-2
    assert any(row["difference"] for row in rows)
    for row in rows:
        assert (row["share"] > 0) or row["difference"] == row["per_use"] == 0


@pytest.mark.parametrize("tied", [False, True])
def test_bytes_of_a_model(model, tied):
    numbers = model.num_parameters()
    assert quality.model_bytes(Decoder(model), model) == 4 * numbers
    experts = 2 * 4 * 3 * 32 * 32
    in_int8 = quality.model_bytes(Decoder(model, experts_format="int8"), model)
    assert in_int8 == 4 * (numbers - experts) + experts * 34 // 32
    if tied:
        output, model.output = model.output, None
        try:
            smaller = numbers - 256 * 32
            assert quality.model_bytes(Decoder(model), model) == 4 * numbers  # read as embedding and as output
            assert quality.model_bytes(Decoder(model, "int8"), model) < 4 * smaller
        finally:
            model.output = output


def run(monkeypatch, model, corpus, *arguments):
    monkeypatch.setattr(quality, "open_or_train", lambda folder, console: (model, corpus))
    return CliRunner().invoke(quality.app, [str(a) for a in arguments], env={"COLUMNS": "120"})


def test_every_format_and_part(monkeypatch, model, corpus):
    result = run(monkeypatch, model, corpus, "--windows", 3, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = {(row["format"], row["part"]): row for row in document["formats"]}
    others = FORMATS.keys() - {"float32"}
    mixed = "int4", "experts, rest int8"
    assert rows.keys() == {("float32", "both"), mixed} | {(f, p) for f in others for p in ("experts", "rest", "both")}
    assert rows["int4", "both"]["bytes"] < rows[mixed]["bytes"] < rows["int8", "both"]["bytes"]
    assert rows[mixed]["difference"] not in (rows["int4", "both"]["difference"], rows["int4", "experts"]["difference"])
    reference = rows["float32", "both"]
    for row in rows.values():
        assert row["difference"] == pytest.approx(row["nats"] - reference["nats"], abs=1e-9)
        assert row["bits"] == pytest.approx(row["nats"] / math.log(2))
    for name in others:
        parts = [rows[name, part]["bytes"] for part in ("both", "experts", "rest")]
        assert parts[0] < min(parts[1:])
        assert parts[1] + parts[2] == parts[0] + reference["bytes"]
    assert abs(rows["mxfp4", "both"]["difference"]) > abs(rows["bfloat16", "both"]["difference"])
    assert document["bytes"] == 6 * 8
    assert document["narrow"] == []
    assert len(document["experts"]) == 8
    assert set(document["rank_correlation"]) == {"share", "weight_error"}
    assert result.stderr.count("windows") == 10


def test_as_a_table_with_a_figure(monkeypatch, model, corpus, tmp_path):
    path = tmp_path / "quality.png"
    result = run(monkeypatch, model, corpus, "--windows", 2, "--one-by-one", "mxfp4", "--figure", path)
    assert result.exit_code == 0, result.output
    assert "int8 experts cost at most 0.002 nats per byte: holds" in result.output
    assert "One expert in mxfp4" in result.output
    assert "all at once" in result.output
    assert path.exists()


def test_a_limit_that_is_missed_and_widths_that_do_not_fit(monkeypatch, corpus):
    odd = Transformer(replace(CONFIG, d_ff=24, num_layers=1), rng=np.random.default_rng(0)).eval()
    monkeypatch.setitem(quality.ALLOWED, "int4", -1.0)
    result = run(monkeypatch, odd, corpus, "--windows", 2, "--one-by-one", "none")
    assert result.exit_code == 0, result.output
    assert "int4 experts cost at most -1.0 nats per byte: MISSED" in result.output
    assert "matrices of width [24]" in result.output
    assert "One expert" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--one-by-one", "int3"], "--one-by-one must be none or one of float32"),
        (["--one-by-one", "none", "--figure", "x.png"], "--figure shows one expert at a time"),
    ],
)
def test_what_is_refused(monkeypatch, model, corpus, arguments, message):
    result = run(monkeypatch, model, corpus, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_dense_model_has_no_experts(monkeypatch, corpus):
    dense = Transformer(replace(CONFIG, num_experts=0), rng=np.random.default_rng(0)).eval()
    result = run(monkeypatch, dense, corpus, "somewhere")
    assert result.exit_code == 2
    assert "somewhere has no experts that a router chooses" in result.output


def test_a_run_is_opened(trained):
    model, corpus = held_out.open_or_train(trained, quality.console_for(True))
    assert one_expert.sparse_layers(model)
    assert not model.training
    assert [domain.name for domain in corpus.domains] == ["words", "sums"]


def test_without_a_run_the_demo_is_trained(monkeypatch, corpus):
    training = presets.training(steps=2, batch_size=1)
    monkeypatch.setattr(presets, "demo", lambda: (CONFIG, training))
    monkeypatch.setattr(held_out, "default_corpus", lambda: corpus)
    model, text = held_out.open_or_train(None, quality.console_for(True))
    assert text is corpus
    assert not model.training
    assert model.embedding.weight.shape == (256, 32)
    assert not np.array_equal(
        model.embedding.weight.data, Transformer(CONFIG, rng=np.random.default_rng(0)).embedding.weight.data
    )
