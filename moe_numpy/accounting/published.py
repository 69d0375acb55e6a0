"""Published Mixture-of-Experts models, and the sizes that their publishers state."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from .architecture import Architecture
from .layers import FeedForward, GroupedQueryAttention, LatentAttention


@dataclass(frozen=True)
class PublishedModel:
    """The sizes of a published model, and what its publisher states.

    Attributes:
        architecture: its sizes.
        stated_total: total parameters according to the publisher.
        stated_active: active parameters according to the publisher; None if not stated.
        source: of the sizes and the statements.
        note: why the count differs from the statement, or what it leaves out.
    """

    architecture: Architecture
    stated_total: float
    stated_active: float | None
    source: str
    note: str = ""


def published(name: str) -> PublishedModel:
    """The published model called ``name``, in any case.

    Raises:
        ValueError: the name is unknown; the message suggests similar ones.
    """
    if name.lower() in PUBLISHED:
        return PUBLISHED[name.lower()]
    near = get_close_matches(name.lower(), PUBLISHED, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(PUBLISHED)}"
    raise ValueError(f"unknown model {name!r}; {hint}")


def _gpt_oss(num_layers: int, num_experts: int) -> Architecture:
    return Architecture(
        d_model=2880,
        vocab_size=201088,
        num_layers=num_layers,
        attention=GroupedQueryAttention(64, 8, 64, qkv_bias=True, output_bias=True, sinks=True),
        expert=FeedForward(2880, bias=True),
        num_experts=num_experts,
        top_k=4,
        router_bias=True,
        num_local_layers=num_layers // 2,
        attention_window=128,
    )


PUBLISHED: Mapping[str, PublishedModel] = {
    "mixtral-8x7b": PublishedModel(
        Architecture(
            d_model=4096,
            vocab_size=32000,
            num_layers=32,
            attention=GroupedQueryAttention(32, 8, 128),
            expert=FeedForward(14336),
            num_experts=8,
            top_k=2,
        ),
        stated_total=46.7e9,
        stated_active=12.9e9,
        source="Jiang et al. 2024, Mixtral of Experts, table 1; Mistral AI, announcement of December 2023",
    ),
    "mixtral-8x22b": PublishedModel(
        Architecture(
            d_model=6144,
            vocab_size=32768,
            num_layers=56,
            attention=GroupedQueryAttention(48, 8, 128),
            expert=FeedForward(16384),
            num_experts=8,
            top_k=2,
        ),
        stated_total=141e9,
        stated_active=39e9,
        source="Mistral AI, announcement of April 2024; config.json of mistralai/Mixtral-8x22B-Instruct-v0.1",
    ),
    "olmoe-1b-7b": PublishedModel(
        Architecture(
            d_model=2048,
            vocab_size=50304,
            num_layers=16,
            attention=GroupedQueryAttention(16, 16, 128, qk_norm="full"),
            expert=FeedForward(1024),
            num_experts=64,
            top_k=8,
        ),
        stated_total=6.9e9,
        stated_active=1.3e9,
        source="Muennighoff et al. 2024, OLMoE, table 1; config.json of allenai/OLMoE-1B-7B-0924",
    ),
    "qwen2-57b-a14b": PublishedModel(
        Architecture(
            d_model=3584,
            vocab_size=151936,
            num_layers=28,
            attention=GroupedQueryAttention(28, 4, 128, qkv_bias=True),
            expert=FeedForward(2560),
            num_experts=64,
            top_k=8,
            shared_expert=FeedForward(20480),
            shared_expert_gate=True,
        ),
        stated_total=57e9,
        stated_active=14e9,
        source="Yang et al. 2024, Qwen2 Technical Report, table 1; config.json of Qwen/Qwen2-57B-A14B",
    ),
    "qwen3-30b-a3b": PublishedModel(
        Architecture(
            d_model=2048,
            vocab_size=151936,
            num_layers=48,
            attention=GroupedQueryAttention(32, 4, 128, qk_norm="head"),
            expert=FeedForward(768),
            num_experts=128,
            top_k=8,
        ),
        stated_total=30.5e9,
        stated_active=3.3e9,
        source="Yang et al. 2025, Qwen3 Technical Report; model card and config.json of Qwen/Qwen3-30B-A3B",
    ),
    "deepseek-v2": PublishedModel(
        Architecture(
            d_model=5120,
            vocab_size=102400,
            num_layers=60,
            attention=LatentAttention(128, query_rank=1536, kv_rank=512, d_nope=128, d_rope=64, d_value=128),
            feed_forward=FeedForward(12288),
            expert=FeedForward(1536),
            num_experts=160,
            top_k=6,
            shared_expert=FeedForward(2 * 1536),
            first_dense_layers=1,
        ),
        stated_total=236e9,
        stated_active=21e9,
        source="DeepSeek-AI 2024, DeepSeek-V2, section 3.1.2; config.json of deepseek-ai/DeepSeek-V2",
    ),
    "deepseek-v3": PublishedModel(
        Architecture(
            d_model=7168,
            vocab_size=129280,
            num_layers=61,
            attention=LatentAttention(128, query_rank=1536, kv_rank=512, d_nope=128, d_rope=64, d_value=128),
            feed_forward=FeedForward(18432),
            expert=FeedForward(2048),
            num_experts=256,
            top_k=8,
            shared_expert=FeedForward(2048),
            balancing_bias=True,
            first_dense_layers=3,
        ),
        stated_total=671e9,
        stated_active=37e9,
        source="DeepSeek-AI 2024, DeepSeek-V3, section 4.2; config.json of deepseek-ai/DeepSeek-V3",
        note="without the multi-token prediction layer, which serves training and speculative decoding",
    ),
    "gpt-oss-20b": PublishedModel(
        _gpt_oss(num_layers=24, num_experts=32),
        stated_total=20.9e9,
        stated_active=3.6e9,
        source="OpenAI 2025, gpt-oss model card, section 2; config.json of openai/gpt-oss-20b",
        note="the publisher counts active parameters without the input embedding",
    ),
    "gpt-oss-120b": PublishedModel(
        _gpt_oss(num_layers=36, num_experts=128),
        stated_total=116.8e9,
        stated_active=5.1e9,
        source="OpenAI 2025, gpt-oss model card, section 2; config.json of openai/gpt-oss-120b",
        note="the publisher counts active parameters without the input embedding",
    ),
    "switch-base-128": PublishedModel(
        Architecture(
            d_model=768,
            vocab_size=32128,
            num_layers=12,
            attention=GroupedQueryAttention(12, 12, 64),
            feed_forward=FeedForward(3072, gated=False),
            expert=FeedForward(3072, gated=False),
            num_experts=128,
            top_k=1,
            moe_every=2,
            num_encoder_layers=12,
            tied_embeddings=True,
            relative_positions=32,
        ),
        stated_total=7.4e9,
        stated_active=None,
        source="Fedus, Zoph, Shazeer 2021, Switch Transformers, section 3; config.json of google/switch-base-128",
    ),
    "switch-c-2048": PublishedModel(
        Architecture(
            d_model=2080,
            vocab_size=32128,
            num_layers=15,
            attention=GroupedQueryAttention(32, 32, 64),
            expert=FeedForward(6144, gated=False),
            num_experts=2048,
            top_k=1,
            num_encoder_layers=15,
            tied_embeddings=True,
            relative_positions=32,
        ),
        stated_total=1.571e12,
        stated_active=None,
        source="Fedus, Zoph, Shazeer 2021, Switch Transformers, table 9",
        note="the published T5X configuration has 30 heads instead of 32, 0.003 % fewer parameters",
    ),
    "glam-64b-64e": PublishedModel(
        Architecture(
            d_model=8192,
            vocab_size=256000,
            num_layers=64,
            attention=GroupedQueryAttention(128, 128, 128),
            feed_forward=FeedForward(32768),
            expert=FeedForward(32768, gated=False),
            num_experts=64,
            top_k=2,
            moe_every=2,
            tied_embeddings=True,
        ),
        stated_total=1.2e12,
        stated_active=96.6e9,
        source="Du et al. 2021, GLaM, table 4 and section 4",
        note="without the biases of relative positions, whose number is not published; that input and output "
        "share a matrix is inferred from the stated active parameters",
    ),
    "dbrx": PublishedModel(
        Architecture(
            d_model=6144,
            vocab_size=100352,
            num_layers=40,
            attention=GroupedQueryAttention(48, 8, 128),
            expert=FeedForward(10752),
            num_experts=16,
            top_k=4,
        ),
        stated_total=132e9,
        stated_active=36e9,
        source="Databricks, announcement of March 2024; config.json of databricks/dbrx-base",
    ),
    "llama-4-scout": PublishedModel(
        Architecture(
            d_model=5120,
            vocab_size=202048,
            num_layers=48,
            attention=GroupedQueryAttention(40, 8, 128),
            expert=FeedForward(8192),
            num_experts=16,
            top_k=1,
            shared_expert=FeedForward(8192),
            num_local_layers=36,
            attention_window=8192,
        ),
        stated_total=109e9,
        stated_active=17e9,
        source="Meta, announcement of April 2025; config.json of meta-llama/Llama-4-Scout-17B-16E",
        note="without the vision encoder; local layers attend within chunks of 8192 tokens: at most that window",
    ),
}
