"""What sparse models chose, from 2017 to 2026: how many experts, how fine, how many of them per token."""

from collections.abc import Mapping
from dataclasses import dataclass

from .architecture import Architecture
from .parameters import active_parameters, total_parameters
from .published import PUBLISHED


@dataclass(frozen=True)
class Design:
    """The choices of a published model.

    Attributes:
        name: of the model.
        released: year and month, "2023-12".
        num_experts: E.
        top_k: k.
        shared_experts: networks of an expert's width that every token uses beside them.
        granularity: G = 8 d² over the weights of one expert: how many experts are as large as the feed-forward network
            of a standard dense layer, which has 8 d² weights.
        total: stored parameters.
        active: parameters that one token uses.
        router: how scores are made and experts chosen.
        source: of the sizes.
    """

    name: str
    released: str
    num_experts: int
    top_k: int
    shared_experts: int
    granularity: float
    total: float
    active: float
    router: str
    source: str

    @property
    def year(self) -> float:
        """The release as a number: 2023.5 is the first of July 2023."""
        year, month = self.released.split("-")
        return int(year) + (int(month) - 1) / 12


_COUNTED: Mapping[str, tuple[str, str]] = {
    "switch-base-128": ("2021-01", "softmax, top 1"),
    "switch-c-2048": ("2021-01", "softmax, top 1"),
    "glam-64b-64e": ("2021-12", "softmax, top 2"),
    "mixtral-8x7b": ("2023-12", "softmax, top 2, renormalised"),
    "dbrx": ("2024-03", "softmax, top 4, renormalised"),
    "mixtral-8x22b": ("2024-04", "softmax, top 2, renormalised"),
    "deepseek-v2": ("2024-05", "softmax, top 6 in 3 of 8 groups"),
    "qwen2-57b-a14b": ("2024-06", "softmax, top 8"),
    "olmoe-1b-7b": ("2024-09", "softmax, top 8"),
    "deepseek-v3": ("2024-12", "sigmoid + bias, top 8 in 4 of 8 groups, renormalised"),
    "llama-4-scout": ("2025-04", "sigmoid, top 1"),
    "qwen3-30b-a3b": ("2025-04", "softmax, top 8, renormalised"),
    "gpt-oss-20b": ("2025-08", "softmax of the top 4"),
    "gpt-oss-120b": ("2025-08", "softmax of the top 4"),
}

_STATED = (
    Design(
        name="shazeer-moe-256",
        released="2017-01",
        num_experts=256,
        top_k=4,
        shared_experts=0,
        granularity=8 * 512**2 / (2 * 512 * 1024),
        total=272.9e6,
        active=8.6e6,
        router="softmax of the noisy top 4",
        source="Shazeer et al. 2017, Outrageously Large Neural Networks, appendix C; without embedding and output",
    ),
    Design(
        name="kimi-k2",
        released="2025-07",
        num_experts=384,
        top_k=8,
        shared_experts=1,
        granularity=8 * 7168**2 / (3 * 7168 * 2048),
        total=1.04e12,
        active=32e9,
        router="sigmoid + bias, top 8, renormalised",
        source="Kimi Team 2025, Kimi K2, section 2.3",
    ),
    Design(
        name="qwen3-next-80b-a3b",
        released="2025-09",
        num_experts=512,
        top_k=10,
        shared_experts=1,
        granularity=8 * 2048**2 / (3 * 2048 * 512),
        total=80e9,
        active=3e9,
        router="softmax, top 10, renormalised",
        source="Qwen Team, announcement of September 2025; transformers, configuration_qwen3_next.py",
    ),
    Design(
        name="minimax-m2",
        released="2025-10",
        num_experts=256,
        top_k=8,
        shared_experts=0,
        granularity=8 * 3072**2 / (3 * 3072 * 1536),
        total=230e9,
        active=10e9,
        router="sigmoid + bias, top 8, renormalised",
        source="MiniMax, announcement of October 2025; transformers, configuration_minimax_m2.py",
    ),
    Design(
        name="deepseek-v4-flash",
        released="2026-04",
        num_experts=256,
        top_k=6,
        shared_experts=1,
        granularity=8 * 4096**2 / (3 * 4096 * 2048),
        total=284e9,
        active=13e9,
        router="√softplus + bias, top 6, renormalised; by hash in 3 layers",
        source="DeepSeek-AI, announcement of April 2026; transformers, configuration_deepseek_v4.py",
    ),
)


def designs() -> list[Design]:
    """The models that ``python -m moe_numpy count`` counts, and some whose sizes are only stated, by release."""
    counted = [_of(name, released, router) for name, (released, router) in _COUNTED.items()]
    return sorted((*counted, *_STATED), key=lambda design: design.released)


def _of(name: str, released: str, router: str) -> Design:
    sizes = PUBLISHED[name].architecture
    assert sizes.expert is not None, "every published model here is sparse"
    return Design(
        name=name,
        released=released,
        num_experts=sizes.num_experts,
        top_k=sizes.top_k,
        shared_experts=_shared_experts(sizes),
        granularity=8 * sizes.d_model**2 / sizes.expert.entries(sizes.d_model).multiplied,
        total=total_parameters(sizes).with_embedding,
        active=active_parameters(sizes).with_embedding,
        router=router,
        source=PUBLISHED[name].source,
    )


def _shared_experts(sizes: Architecture) -> int:
    """How many experts are as wide as the shared one."""
    if sizes.shared_expert is None or sizes.expert is None:
        return 0
    return sizes.shared_expert.d_ff // sizes.expert.d_ff
