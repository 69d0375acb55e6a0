import json
from dataclasses import replace

import numpy as np
import pytest

from moe_numpy.models import ModelConfig
from moe_numpy.orchestration import specialists
from moe_numpy.orchestration.kinds import KINDS
from moe_numpy.orchestration.specialists import STAGES, SpecialistError, Specialists, losses
from moe_numpy.training import Run

TINY = ModelConfig(num_experts=0, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=16, context=16)


@pytest.fixture
def tiny(monkeypatch, folder):
    """Texts and models that train in a moment."""
    of_kind = {kind: f"{kind} has its own words, {kind[::-1]}. ".encode() * 100 for kind in KINDS}
    monkeypatch.setattr(specialists, "texts", lambda: of_kind)
    monkeypatch.setattr(specialists, "MODEL", TINY)
    monkeypatch.setattr("moe_numpy.commands.specialists.MODEL", TINY)
    monkeypatch.setattr(
        specialists, "training_of", lambda stage: replace(specialists.presets.training(steps=6), batch_size=2)
    )
    return folder


def test_trained_branched_and_used(tiny, cli):
    with pytest.raises(SpecialistError, match="no trained specialist for prose, code"):
        Specialists(tiny)
    result = cli("specialists", "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["specialists"]) == set(STAGES)
    seed = Run.open(tiny / "seed").verified(6)
    for kind in KINDS:
        assert Run.open(tiny / kind).validation()[0] == pytest.approx(_loss_of_seed(tiny, kind), rel=1e-5)
    trained = Specialists(tiny)
    assert trained.model("code") is trained.model("code")
    assert set(trained.losses_of("def f")) == set(KINDS)
    assert trained.losses_of("x") == {}
    assert seed.step == 6
    before = (tiny / "code" / "summary.json").read_bytes()
    assert cli("specialists").exit_code == 0
    assert (tiny / "code" / "summary.json").read_bytes() == before

    written = cli("ask", "write a poem about autumn", "--explain")
    assert written.exit_code == 0
    assert "does not understand" in written.stdout
    assert "nats/byte" in written.stdout


def _loss_of_seed(folder, kind):
    """On the validation text of a kind: where its specialist begins."""
    model = Run.open(folder / "seed").model()[0].eval()
    windows = specialists.corpus_of(folder, kind).validation_windows(TINY.context, limit=48)
    return losses(model, windows.tokens, windows.targets).mean()


def test_losses_are_those_of_the_model(tiny):
    trainer = specialists.Trainer(TINY, specialists.training_of("seed"), _corpus(tiny))
    tokens = np.arange(32).reshape(2, 16)
    logits = trainer.model(tokens).logits.data.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, (tokens + 1)[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose(losses(trainer.model, tokens, tokens + 1), expected, rtol=1e-5)


def _corpus(folder):
    specialists.write_texts(folder)
    return specialists.corpus_of(folder, *KINDS)
