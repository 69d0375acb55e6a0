"""The Architecture of models that are described layer by layer, in every family's settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_numpy.accounting import active_parameters, architecture_of_layers, total_parameters
from moe_numpy.models import Transformer
from moe_numpy.models.transformer_config import Dense
from moe_numpy.nn.module import Unfilled
from moe_numpy.pretrained import PublishedConfig

FILES = sorted((Path(__file__).parents[1] / "pretrained/configs").glob("*.json"))
SETTINGS = {
    f"{file.stem} {name}": of["published"] for file in FILES for name, of in json.loads(file.read_text()).items()
}
#: Biases that are not counted: of latent attention, and of LayerNorm.
BIASES = {"deepseek_v2 biases_top1", "deepseek_v3 half_pairs", "glm4_moe_lite mixed_layers_yarn"}
BIASES |= {name for name in SETTINGS if "phimoe" in name}
NO_RULE = {
    "ernie4_5_moe some_layers", "qwen2_moe mixed_layers", "hunyuan_v1_moe alpha", "mellum two_rotations"
}  # fmt: skip


def config(name):
    return PublishedConfig(SETTINGS[name], Path("config.json")).transformer


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - NO_RULE))
def test_counts_are_those_of_the_model(name):
    model, architecture = Transformer(config(name), rng=Unfilled()), architecture_of_layers(config(name))
    left_out = model.num_parameters() - total_parameters(architecture).with_embedding
    assert (left_out > 0) == (name in BIASES)
    assert left_out < 0.01 * model.num_parameters()
    assert active_parameters(architecture).with_embedding == model.active_parameters() - left_out


@pytest.mark.parametrize("name", sorted(NO_RULE))
def test_layers_without_a_rule_are_refused(name):
    with pytest.raises(ValueError, match=r"has (experts in every n-th layer|sparse layers of one kind)"):
        architecture_of_layers(config(name))


def test_local_layers():
    found = architecture_of_layers(config("gpt_oss plain"))
    layers = config("gpt_oss plain").layers
    windows = [layer.attention.parts.window for layer in layers if layer.attention.parts.window]
    assert (found.num_local_layers, found.attention_window) == (len(windows), windows[0])


def test_a_router_without_k_is_refused():
    mixtral = config("mixtral plain")
    (layer, *_), sparse = mixtral.layers, mixtral.sparse_layers[0]
    soft = replace(layer, feed_forward=replace(sparse, recipe=replace(sparse.recipe, router=None, slots=1)))
    with pytest.raises(ValueError, match="routers of k experts per token, got another kind"):
        architecture_of_layers(replace(mixtral, layers=(soft, soft)))


def test_dense_layers_of_two_widths_are_refused():
    llama = config("llama plain")
    first = replace(llama.layers[0], feed_forward=Dense(7))
    with pytest.raises(ValueError, match="an Architecture has dense layers of one kind, got 2"):
        architecture_of_layers(replace(llama, layers=(first, *llama.layers[1:])))
