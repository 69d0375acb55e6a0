"""Exercise 33: parameters and FLOPs; the second oracle is the library's accounting."""

from typing import Any

import numpy as np

from exercises.reference.model_size import model_size
from moe_numpy.accounting import (
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    active_parameters,
    flops_per_token,
    total_parameters,
)

from ..exercise import Case, Check, Exercise, case, one_by_one

EXERCISE = Exercise(
    number=33,
    name="accounting",
    title="Parameters and FLOPs",
    teaches="47 billion parameters at the cost of 13: where a sparse model's numbers come from, to the last digit.",
    difficulty=1,
    minutes=20,
    target="exercises.reference.model_size:model_size",
    hints=(
        "Count one expert, one attention, one router first. Most of the total is L · E · 3 d f.",
        "Write a helper that takes the number of experts and counts all matrices: with E for the total, with k for "
        "the active ones and the FLOPs. The router has E rows in both.",
        "matrices(n) = L (2 d h (H + K) + E d + (n + shared) 3 d f) + V d; norms = (2 L + 1) d; embedding = V d. "
        "total = embedding + matrices(E) + norms, active the same with k, flops = 2 matrices(k).",
    ),
)


def specification(
    d_model: int,
    vocab_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    d_head: int,
    d_ff: int,
    num_experts: int,
    top_k: int,
    shared_experts: int = 0,
) -> tuple[int, int, int]:
    """The library's count."""
    a = Architecture(
        d_model,
        vocab_size,
        num_layers,
        GroupedQueryAttention(num_heads, num_kv_heads, d_head),
        expert=FeedForward(d_ff),
        num_experts=num_experts,
        top_k=top_k,
        shared_expert=FeedForward(shared_experts * d_ff) if shared_experts else None,
    )
    return total_parameters(a).with_embedding, active_parameters(a).with_embedding, flops_per_token(a, 1).weights


def _model(rng: np.random.Generator, shared: int = 0, grouped: bool = False, narrow: bool = False) -> Case:
    """Random sizes; H h = d unless ``narrow``, K = H unless ``grouped``."""
    heads, width = int(rng.choice([4, 6, 8])), int(rng.choice([16, 32]))
    d = heads * width + (16 if narrow else 0)
    experts = int(rng.integers(5, 33))
    return case(
        d,
        int(rng.integers(200, 900)),
        int(rng.integers(2, 9)),
        heads,
        heads // 2 if grouped else heads,
        width,
        int(rng.integers(40, 200)),
        experts,
        int(rng.integers(2, 5)),
        **({"shared_experts": shared} if shared else {}),
    )


def plain(rng: np.random.Generator) -> list[Case]:
    """Multi-head attention, routed experts only."""
    return [_model(rng) for _ in range(4)]


def grouped(rng: np.random.Generator) -> list[Case]:
    """Fewer key heads than query heads, and H h below d."""
    return [_model(rng, grouped=True), _model(rng, grouped=True, narrow=True), _model(rng, narrow=True)]


def shared(rng: np.random.Generator) -> list[Case]:
    """With shared experts."""
    return [_model(rng, shared=n) for n in (1, 2, 3)]


def smallest(rng: np.random.Generator) -> list[Case]:
    """Every size 1; all experts chosen."""
    return [case(1, 1, 1, 1, 1, 1, 1, 1, 1), case(8, 10, 1, 2, 1, 4, 3, 4, 4)]


MIXTRAL_8X7B = case(4096, 32000, 32, 32, 8, 128, 14336, 8, 2)
MIXTRAL_8X22B = case(6144, 32768, 56, 48, 8, 128, 16384, 8, 2)

# Wrong solutions


def _with(*sizes: int, shared_experts: int, add: tuple[int, int, int]) -> tuple[int, int, int]:
    """The right numbers plus the given errors."""
    total, active, flops = model_size(*(*sizes, shared_experts))
    return total + add[0], active + add[1], flops + add[2]


def every_expert_is_active(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts all E experts as active and computed. A token uses k of them: that is the point of a sparse model."""
    d, _, layers, _, _, _, f, e, k = sizes
    idle = layers * (e - k) * 3 * d * f
    return _with(*sizes, shared_experts=shared_experts, add=(0, idle, 2 * idle))


def two_matrices_in_an_expert(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts two matrices in an expert. SwiGLU has three: gate, up and down."""
    d, _, layers, _, _, _, f, e, k = sizes
    total, active = (-layers * (n + shared_experts) * d * f for n in (e, k))
    return _with(*sizes, shared_experts=shared_experts, add=(total, active, 2 * active))


def no_router(*sizes: int, shared_experts: int = 0) -> Any:
    """Leaves out the router. It is small, but published numbers include it."""
    d, _, layers, _, _, _, _, e, _ = sizes
    n = -layers * e * d
    return _with(*sizes, shared_experts=shared_experts, add=(n, n, 2 * n))


def router_of_k_rows(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts k rows of the router as active. It scores all E experts before any is chosen."""
    d, _, layers, _, _, _, _, e, k = sizes
    n = layers * (k - e) * d
    return _with(*sizes, shared_experts=shared_experts, add=(0, n, 2 * n))


def as_many_key_heads_as_queries(*sizes: int, shared_experts: int = 0) -> Any:
    """Gives keys and values H heads. In grouped-query attention they have K."""
    d, _, layers, heads, kv, h, *_ = sizes
    n = layers * 2 * d * h * (heads - kv)
    return _with(*sizes, shared_experts=shared_experts, add=(n, n, 2 * n))


def square_attention(*sizes: int, shared_experts: int = 0) -> Any:
    """Takes d for H h. They are often equal, but need not be."""
    d, _, layers, heads, _, h, *_ = sizes
    n = layers * 2 * d * (d - heads * h)
    return _with(*sizes, shared_experts=shared_experts, add=(n, n, 2 * n))


def one_matrix_for_input_and_output(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts embedding and output once. That is right for tied embeddings; here both are stored."""
    d, v, *_ = sizes
    return _with(*sizes, shared_experts=shared_experts, add=(-v * d, -v * d, 0))


def multiplies_with_the_embedding(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts FLOPs for the embedding. Reading one row of a table multiplies nothing."""
    d, v, *_ = sizes
    return _with(*sizes, shared_experts=shared_experts, add=(0, 0, 2 * v * d))


def one_flop_for_each_parameter(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts one FLOP per entry. Each takes part in a multiplication and an addition: two."""
    total, active, flops = model_size(*(*sizes, shared_experts))
    return total, active, flops // 2


def no_last_norm(*sizes: int, shared_experts: int = 0) -> Any:
    """Leaves out the norm before the output: d scales."""
    return _with(*sizes, shared_experts=shared_experts, add=(-sizes[0], -sizes[0], 0))


def norms_cost_flops(*sizes: int, shared_experts: int = 0) -> Any:
    """Counts FLOPs for the scales of the norms. Only matrix multiplications are counted here."""
    n = (2 * sizes[2] + 1) * sizes[0]
    return _with(*sizes, shared_experts=shared_experts, add=(0, 0, 2 * n))


def shared_among_the_k(*sizes: int, shared_experts: int = 0) -> Any:
    """Takes the shared experts out of the k. They come on top."""
    d, _, layers, _, _, _, f, *_ = sizes
    n = -layers * shared_experts * 3 * d * f
    return _with(*sizes, shared_experts=shared_experts, add=(0, n, 2 * n))


CHECKS = (
    Check("routed experts", 4, plain, "go through the list of parts in the docstring, one by one"),
    Check("grouped-query attention", 2, grouped, "queries and output have H h, keys and values K h"),
    Check("shared experts", 2, shared, "on top of the k, in every count"),
    Check("the smallest", 1, smallest, "with every size 1 there are 15 parameters; count them"),
    Check(
        "Mixtral 8x7B to the last parameter",
        2,
        one_by_one(MIXTRAL_8X7B),
        "46,702,792,704 in total, 12,879,925,248 active",
    ),
    Check("Mixtral 8x22B", 1, one_by_one(MIXTRAL_8X22B), "the same formula with other numbers"),
)

MISTAKES = (
    every_expert_is_active,
    two_matrices_in_an_expert,
    no_router,
    router_of_k_rows,
    as_many_key_heads_as_queries,
    square_attention,
    one_matrix_for_input_and_output,
    multiplies_with_the_embedding,
    one_flop_for_each_parameter,
    no_last_norm,
    norms_cost_flops,
    shared_among_the_k,
)
