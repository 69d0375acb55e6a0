"""Settings that a family refuses, by name, and what its other spellings mean."""

import pytest
from published import recorded

from moe_numpy.pretrained import PretrainedError
from moe_numpy.pretrained.config import PublishedConfig


def transformer(family, **changes):
    model = recorded(family)["plain"]["published"]
    return PublishedConfig(model | changes).transformer


REFUSED = [
    ("mixtral", {"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu' or 'swish' is supported"),
    ("mixtral", {"rms_norm_eps": 0}, "rms_norm_eps must be above 0 and below 1, got 0.0"),
    ("dbrx", {"rope_theta": 123.0}, "rope_theta is 123.0: attn_config says 10000.0"),
    ("dbrx", {"ffn_config": {"ffn_act_fn": {"name": "gelu"}}}, "ffn_config.ffn_act_fn.name is 'gelu'"),
    ("dbrx", {"ffn_config": {"x": 1}}, "sets ffn_config: 'x', not understood"),
    ("dbrx", {"tie_word_embeddings": True}, "tie_word_embeddings is True, only False is supported"),
    ("deepseek_v2", {"num_key_value_heads": 2}, "latent attention has as many as num_attention_heads, 4"),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method is 'noaux_tc', only 'greedy' or 'group_limited_greedy'"),
    ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob is True, only False"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
    ("deepseek_v3", {"routed_scaling_factor": 0}, r"routed_scaling_factor must be above 0 and below 1e\+06, got 0.0"),
    ("gpt_oss", {"layer_types": ["full_attention"]}, "layer_types is .*: expected full_attention or sliding_attention"),
    ("llama4_text", {}, "text_config.no_rope_layers is .*: expected 0 or 1 for each of"),
    ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok is 3, only 2 is supported"),
    ("phimoe", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "only default, longrope are supported in phimoe"),
    ("phimoe", {"router_jitter_noise": -0.1}, "router_jitter_noise must be at least 0 and below 1, got -0.1"),
    ("ernie4_5_moe", {"moe_use_aux_free": False}, "moe_use_aux_free is False, only True is supported"),
    ("granitemoe", {"logits_scaling": -1.0}, "logits_scaling must be above 0"),
    ("hunyuan_v1_moe", {"moe_topk": [1, 2, 3]}, "moe_topk is .*: expected a number of at least 1, or one for each"),
    ("hunyuan_v1_moe", {"num_experts": [4, 5]}, "only the same number in each layer is supported"),
    ("hunyuan_v1_moe", {"moe_intermediate_size": [23, 23]}, "moe_intermediate_size is .*: only 24 is supported"),
    ("hunyuan_v1_moe", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "lacks rope_scaling.alpha"),
    ("hunyuan_v1_moe", {"rope_scaling": {"type": "dynamic", "alpha": 9.0, "x": 1}}, "sets rope_scaling: 'x'"),
    (
        "hunyuan_v1_moe",
        {"head_dim": 2, "attention_head_dim": 2, "rope_scaling": {"type": "dynamic", "alpha": 9.0}},
        "of at least 4",
    ),
    ("minimax_m2", {"attn_type_list": [1, 0]}, "only 1, full attention, is supported"),
    ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head', only 'per_layer'"),
    ("dots1", {"sliding_window": 0}, "sliding_window must be at least 1, got 0"),
    ("granitemoe", {"sliding_window": 4}, "sets 'sliding_window', not understood"),
]


@pytest.mark.parametrize(("family", "changes", "message"), REFUSED)
def test_refused(family, changes, message):
    if family == "llama4_text":
        text = recorded(family)["plain"]["published"]["text_config"]
        changes = {"text_config": text | {"no_rope_layers": [1, 2]}}
    with pytest.raises(PretrainedError, match=message):
        transformer(family, **changes)


def test_a_window_that_dots_does_not_give():
    settings = {k: v for k, v in recorded("dots1")["plain"]["published"].items() if k != "sliding_window"}
    with pytest.raises(PretrainedError, match="sliding_window is None: needed, or null, since max_window_layers=1"):
        PublishedConfig(settings | {"max_window_layers": 1}).transformer  # noqa: B018


def windows(config):
    return [layer.attention.parts.window for layer in config.layers]


def test_which_layers_have_windows():
    gpt = transformer("gpt_oss", layer_types=None, sliding_window=9, num_hidden_layers=4)
    assert windows(gpt) == [9, None, 9, None]
    qwen = transformer("qwen2_moe", use_sliding_window=True, sliding_window=9, max_window_layers=3, num_hidden_layers=5)
    assert windows(qwen) == [9, None, 9, None, None]
    types = ["full_attention", "sliding_attention"]
    assert windows(transformer("qwen2_moe", use_sliding_window=True, sliding_window=9, layer_types=types)) == [None, 9]
    assert windows(transformer("mixtral", sliding_window=9)) == [9, 9]
    dots = transformer("dots1", sliding_window=9, max_window_layers=1, num_hidden_layers=3)
    assert windows(dots) == [None, 9, 9]


def test_which_layers_are_sparse():
    def sparse(config):
        return [hasattr(layer.feed_forward, "recipe") for layer in config.layers]

    qwen = transformer("qwen3_moe", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3])
    assert sparse(qwen) == [False, True, False, False, False, True]
    ernie = {"num_hidden_layers": 6, "moe_layer_start_index": 2, "moe_layer_end_index": 4, "moe_layer_interval": 2}
    assert sparse(transformer("ernie4_5_moe", **ernie)) == [False, False, False, True, False, False]
    assert sparse(transformer("deepseek_v3", num_hidden_layers=4, first_k_dense_replace=3)) == [False] * 3 + [True]


def test_kimi_is_deepseek_by_another_name():
    assert PublishedConfig({"model_type": "kimi_k2"}).family is PublishedConfig({"model_type": "deepseek_v3"}).family
