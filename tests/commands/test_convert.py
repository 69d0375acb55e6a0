"""A run as a published model: what is written, what it computes, what is refused."""

import json

import numpy as np
import pytest

from moe_numpy.models import ModelConfig, Transformer
from moe_numpy.pretrained import PretrainedError, from_pretrained
from moe_numpy.pretrained.converting import converted, targets
from moe_numpy.training import Run

FILES = ["config.json", "model.safetensors", "tokenizer.json"]
IDS = np.random.default_rng(0).integers(0, 256, (2, 12))
SMALL = {"d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "context": 16, "d_ff": 8, "num_experts": 4}


def model_of(**settings):
    model = Transformer(ModelConfig(**(SMALL | settings)), rng=np.random.default_rng(0)).eval()
    for _, buffer in model.named_buffers():
        buffer.data[...] = np.random.default_rng(1).standard_normal(buffer.shape)
    return model


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mixtral", {}),
        ("mixtral", {"recipe": "st_moe", "recipe_settings": {"capacity_factor": None, "second_threshold": None}}),
        ("llama", {"num_experts": 0}),
        ("qwen2_moe", {"recipe": "qwen2_moe"}),
        ("qwen2_moe", {"recipe": "qwen2_moe", "recipe_settings": {"normalize": True}, "moe_every": 2}),
        ("glm4_moe", {"recipe": "deepseek_v3", "num_experts": 8}),
        ("glm4_moe", {"recipe": "deepseek_v3", "num_experts": 8, "moe_every": 2, "dense_d_ff": 12}),
    ],
)
def test_a_converted_model_computes_the_same(family, settings):
    model = model_of(**settings)
    result = converted(model, family)
    assert result.config.model_type == family
    np.testing.assert_array_equal(result(IDS).logits.data, model(IDS).logits.data)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("mixtral", {"recipe": "switch"}, r"router.gates is \(\) here and \(Gate\(Renormalize\),\) there"),
        ("mixtral", {"recipe": "olmoe"}, r"router.gates is \(\) here"),
        ("mixtral", {"moe_every": 2}, r"layers\[0\].feed_forward is a Dense here"),
        ("mixtral", {"recipe": "soft_moe"}, "no mixtral model computes the same"),
        ("llama", {}, "is a Sparse here and a Dense there"),
        ("qwen2_moe", {}, "shared_width is 0 here and 8 there"),
        ("glm4_moe", {"recipe": "deepseek_v3", "num_experts": 8, "num_layers": 3, "moe_every": 2}, r"layers\[0\]"),
        ("glm4_moe", {"recipe": "longcat"}, "no glm4_moe model computes the same"),
        ("olmoe", {}, "a model can be converted to glm4_moe, llama, mixtral, qwen2_moe, not to 'olmoe'"),
    ],
)
def test_what_computes_something_else_is_refused(family, settings, message):
    with pytest.raises(PretrainedError, match=message):
        converted(model_of(**settings), family)


def test_a_run_becomes_a_folder_that_others_read(cli, trained, tmp_path):
    out = tmp_path / "out"
    done = json.loads(cli("convert", trained, out, "--to", "mixtral", "--json").stdout)
    assert done["files"] == FILES == sorted(path.name for path in out.iterdir())
    assert json.loads((out / "config.json").read_text())["model_type"] == "mixtral"
    ours, _ = Run.open(trained).model()
    np.testing.assert_array_equal(from_pretrained(out)(IDS).logits.data, ours.eval()(IDS).logits.data)

    pytest.importorskip("tokenizers")
    options = ["the ", "--tokens", 20, "--temperature", 0]
    assert cli("generate", out, *options).stdout == cli("generate", trained, *options).stdout
    assert json.loads(cli("count", out, "--json").stdout)["total"] == ours.num_parameters()


def test_a_published_model_is_written_in_another_type(cli, trained, tmp_path):
    out, half = tmp_path / "out", tmp_path / "half"
    cli("convert", trained, out, "--to", "mixtral")
    done = cli("convert", out, half, "--dtype", "bfloat16")
    assert done.exit_code == 0
    assert sorted(path.name for path in half.iterdir()) == FILES
    assert (half / "model.safetensors").stat().st_size < 0.6 * (out / "model.safetensors").stat().st_size
    copies = from_pretrained(half, dtype=np.float32)
    apart = copies(IDS).logits.data - from_pretrained(out)(IDS).logits.data
    assert 0 < np.abs(apart).max() < 0.02
    np.testing.assert_allclose(from_pretrained(half)(IDS).logits.data, copies(IDS).logits.data, atol=1e-6)


def test_refusals(refused, trained, tmp_path, cli):
    out = tmp_path / "out"
    assert "--to is needed: the family to become, one of" in refused("convert", trained, out)
    assert "not to 'gpt2'" in refused("convert", trained, out, "--to", "gpt2")
    assert "--dtype must be one of float32, bfloat16, got 'int8'" in refused("convert", trained, out, "--dtype", "int8")
    assert "no llama model computes the same" in refused("convert", trained, out, "--to", "llama")
    assert not out.exists()
    cli("convert", trained, out, "--to", "mixtral")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "config.json exists" in refused("convert", trained, out, "--to", "mixtral")
    assert "--to is for runs" in refused("convert", out, tmp_path / "again", "--to", "mixtral")
    assert "--step is for runs" in refused("convert", out, tmp_path / "again", "--step", 4)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not (tmp_path / "again").exists()


def test_a_disk_that_fails_leaves_nothing(cli, trained, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def fails(*arguments):
        raise OSError(28, "No space left on device", str(out / "config.json"))

    monkeypatch.setattr("moe_numpy.pretrained.saving.write_json_atomically", fails)
    done = cli("convert", trained, out, "--to", "mixtral")
    assert done.exit_code == 2
    assert "No space left on device" in done.stderr
    assert not out.exists()


def test_every_target_is_a_family_with_settings():
    assert targets() == ["glm4_moe", "llama", "mixtral", "qwen2_moe"]
