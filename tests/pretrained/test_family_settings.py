"""Settings that a family refuses, by name, and what its other spellings mean."""

import pytest
from published import recorded

from moe_numpy.pretrained import PretrainedError
from moe_numpy.pretrained.config import PublishedConfig


def transformer(family, **changes):
    model = next(iter(recorded(family).values()))["published"]
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
    ("hunyuan_v1_moe", {"rope_scaling": {"type": "dynamic", "alpha": 9.0, "x": 1}}, "sets rope_scaling: 'x'"),
    (
        "hunyuan_v1_moe",
        {"head_dim": 2, "attention_head_dim": 2, "rope_scaling": {"type": "dynamic", "alpha": 9.0}},
        "of at least 4",
    ),
    ("minimax_m2", {"rotary_dim": 18}, "rotary_dim is 18: must be even and at most head_dim=16"),
    ("minimax_m2", {"attn_type_list": [1, 0]}, "only 1, full attention, is supported"),
    ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type is 'per_head', only 'per_layer'"),
    ("dots1", {"sliding_window": 0}, "sliding_window must be at least 1, got 0"),
    ("granitemoe", {"sliding_window": 4}, "sets 'sliding_window', not understood"),
    ("glm4_moe", {"partial_rotary_factor": 0.2}, "factor is 0.2: of 16 entries of a head 3 would turn, which are not"),
    ("qwen2_moe", {"layer_types": ["sliding_attention"] * 2}, "layer_types is .*: windows need use_sliding_window"),
    ("ernie4_5_moe", {"use_bias": True}, "use_bias is True: an output matrix that is the embedding has no bias"),
    ("phimoe", {"lm_head_bias": True, "tie_word_embeddings": True}, "lm_head_bias is True: an output matrix"),
    ("glm4_moe_lite", {"mlp_layer_types": ["sparse"]}, "expected dense or sparse for each of 3 layers"),
    ("solar_open", {"use_qk_norm": True}, "use_qk_norm is True, only False is supported"),
    ("exaone_moe", {"is_moe_layer": [True] * 3}, "is_moe_layer is .*: the other settings make it .False, False, True."),
    ("exaone_moe", {"sliding_window": None}, "sliding_window is None: a number is needed"),
    (
        "exaone_moe",
        {"sliding_window_pattern": "LLG"},
        "sliding_window_pattern is 'LLG': without layer_types it must be",
    ),
    ("mellum", {"rope_parameters": {"full_attention": {}}}, "lacks sliding_attention, which layer_types has"),
    (
        "mellum",
        {"rope_parameters": {"sliding_attention": {"x": 1}, "full_attention": {}}},
        "sliding_attention: 'x', not",
    ),
    ("granitemoe_swa", {"layer_rope_theta": [0, 0.5, 2]}, "layer_rope_theta is .*: expected 0 or a number above 1"),
    (
        "deepseek_v3",
        {"model_type": "deepseek_v32", "mlp_layer_types": ["dense", "sparse", "dense"]},
        "must come before",
    ),
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


def test_which_layers_rotate():
    def bases(config):
        return [part.rotary and part.rotary.base for part in (layer.attention.parts for layer in config.layers)]

    exaone = transformer("exaone_moe", sliding_window_pattern=3, sliding_window=9)
    assert (windows(exaone), bases(exaone)) == ([9, 9, None], [500.0, 500.0, None])
    granite = transformer("granitemoe_swa", layer_rope_theta=[0, 500, 100], sliding_window=9)
    assert (windows(granite), bases(granite)) == ([None, 9, 9], [None, 500.0, 100.0])


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa"])
def test_an_indexer_limits_the_context_to_where_it_chooses_everything(family):
    model = recorded("deepseek_v3")["plain"]["published"] | {"model_type": family, "index_topk": 17}
    yarn = {"rope_scaling": {"type": "yarn", "factor": 8.0}}
    config, written = (of(PublishedConfig(model | yarn)) for of in (lambda c: c, lambda c: c.written()))
    assert config.context == written.context == 17
    assert written.model_type == "deepseek_v3"
    rotaries = [c.transformer.layers[0].attention.parts.rotary for c in (config, written)]
    assert rotaries[0] == rotaries[1]  # the original context of YaRN is still that of the whole
    assert rotaries[0].scaling.original_context == model["max_position_embeddings"]
    tensors = ["model.layers.0.self_attn.indexer.wk.weight", "model.layers.0.self_attn.o_proj.weight"]
    assert config.skipped(tensors) == set(tensors[:1])


@pytest.mark.parametrize(
    ("family", "alone", "tied"),
    [("qwen3_vl_moe", "qwen3_moe", False), ("glm4v_moe", "glm4_moe", False), ("kimi_k25", "deepseek_v3", True)],
)
def test_the_language_model_of_a_model_with_images(family, alone, tied):
    text = {k: v for k, v in recorded(alone)["plain"]["version_5"].items() if k != "tie_word_embeddings"}
    rope = text["rope_parameters"] | {"mrope_section": [2, 3, 3], "mrope_interleaved": True}
    whole = {"model_type": family, "vision_config": {"depth": 1}, "image_token_id": 5}
    config = PublishedConfig(whole | {"text_config": text | {"rope_parameters": rope}})
    assert config.transformer.tied == tied
    written = config.written()
    assert written.model_type == alone
    expected = PublishedConfig(text).transformer
    for found in (config.transformer, written.transformer):
        assert found.layers[0].attention == expected.layers[0].attention
        assert found.tied == tied
    with pytest.raises(PretrainedError, match="text_config is None: a model of text and images has its language model"):
        PublishedConfig(whole).transformer  # noqa: B018
    with pytest.raises(PretrainedError, match="sets text_config: 'x', not understood"):
        PublishedConfig(whole | {"text_config": text | {"x": 1}}).transformer  # noqa: B018


def test_kimi_is_deepseek_by_another_name():
    assert PublishedConfig({"model_type": "kimi_k2"}).family is PublishedConfig({"model_type": "deepseek_v3"}).family
