"""Pairs of a dense and a sparse model of equal quality."""

from dataclasses import dataclass

from moe_numpy.accounting import (
    PUBLISHED,
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    architecture_of,
)
from moe_numpy.training import presets


@dataclass(frozen=True)
class Pair:
    """Two models, and why they count as equally good.

    Attributes:
        dense: its name and sizes.
        sparse: likewise.
        source: of the comparison.
        context: the longest text of both.
    """

    dense: tuple[str, Architecture]
    sparse: tuple[str, Architecture]
    source: str
    context: int


def _llama_2_70b() -> Architecture:
    """Touvron et al. 2023, Llama 2, table 1; config.json of meta-llama/Llama-2-70b-hf."""
    attention = GroupedQueryAttention(64, 8, 128)
    return Architecture(8192, 32000, 80, attention, feed_forward=FeedForward(28672))


def _deepseek_7b() -> Architecture:
    """DeepSeek-AI 2024, DeepSeek LLM, table 2; config.json of deepseek-ai/deepseek-llm-7b-base."""
    attention = GroupedQueryAttention(32, 32, 128)
    return Architecture(4096, 102400, 30, attention, feed_forward=FeedForward(11008))


def _deepseekmoe_16b() -> Architecture:
    """Dai et al. 2024, DeepSeekMoE, section 5.1; config.json of deepseek-ai/deepseek-moe-16b-base."""
    return Architecture(
        d_model=2048,
        vocab_size=102400,
        num_layers=28,
        attention=GroupedQueryAttention(16, 16, 128),
        feed_forward=FeedForward(10944),
        expert=FeedForward(1408),
        num_experts=64,
        top_k=6,
        shared_expert=FeedForward(2 * 1408),
        first_dense_layers=1,
    )


def pairs() -> dict[str, Pair]:
    """By name."""
    demo, _ = presets.demo()
    return {
        "deepseekmoe-16b": Pair(
            ("DeepSeek 7B", _deepseek_7b()),
            ("DeepSeekMoE 16B", _deepseekmoe_16b()),
            "the same 2T tokens; 0.75 and 0.74 bits per byte of the Pile (Dai et al. 2024, DeepSeekMoE, table 3)",
            4096,
        ),
        "mixtral-8x7b": Pair(
            ("Llama 2 70B", _llama_2_70b()),
            ("Mixtral 8x7B", PUBLISHED["mixtral-8x7b"].architecture),
            "other data; MMLU 69.9 and 70.6, HellaSwag 85.4 and 84.4 (Jiang et al. 2024, Mixtral of Experts, table 2)",
            4096,
        ),
        "demo": Pair(
            ("dense twin", architecture_of(demo.dense_twin())),
            ("the demo's model", architecture_of(demo)),
            "the twin trained for 350 steps instead of 300 (benchmarks/README.md); caches would hold both models",
            demo.context,
        ),
    }
