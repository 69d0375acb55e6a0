"""Exercise 33: parameters and FLOPs."""

import numpy as np

from moe_numpy.accounting import (
    Architecture,
    FeedForward,
    GroupedQueryAttention,
    active_parameters,
    flops_per_token,
    total_parameters,
)

from ..exercise import Case, Check, Exercise, case, one_by_one
from ..mistakes import edits

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
    """The library's accounting."""
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
    return [_model(rng) for _ in range(4)]


def grouped(rng: np.random.Generator) -> list[Case]:
    """Fewer key heads than query heads, and H h below d."""
    return [_model(rng, grouped=True), _model(rng, grouped=True, narrow=True), _model(rng, narrow=True)]


def shared(rng: np.random.Generator) -> list[Case]:
    return [_model(rng, shared=n) for n in (1, 2, 3)]


def smallest(rng: np.random.Generator) -> list[Case]:
    """Every size 1; all experts chosen."""
    return [case(1, 1, 1, 1, 1, 1, 1, 1, 1), case(8, 10, 1, 2, 1, 4, 3, 5, 5)]


def beyond_53_bits(rng: np.random.Generator) -> list[Case]:
    """Sizes whose counts have more digits than a float, and some more than 64 bits."""
    d, vocab, width, d_ff = (int(n) for n in rng.integers(10**7, 10**8, 4) * 2 + 1)
    return [case(n * d, n * vocab, 61, 6, 3, n * width, n * d_ff, 31, 5, 3) for n in (1, 10**12 + 1)]


MIXTRAL_8X7B = one_by_one(case(4096, 32000, 32, 32, 8, 128, 14336, 8, 2))
MIXTRAL_8X22B = one_by_one(case(6144, 32768, 56, 48, 8, 128, 16384, 8, 2))
CHECKS = (
    Check("routed experts", 4, plain, "go through the list of parts in the docstring, one by one"),
    Check("grouped-query attention", 2, grouped, "queries and output have H h, keys and values K h"),
    Check("shared experts", 2, shared, "on top of the k, in every count"),
    Check("the smallest", 1, smallest, "with every size 1 there are 15 parameters; count them"),
    Check("counts of any size", 1, beyond_53_bits, "Python's integers have no limit; a float has 53 bits"),
    Check("Mixtral 8x7B to the last parameter", 2, MIXTRAL_8X7B, "46,702,792,704 in total, 12,879,925,248 active"),
    Check("Mixtral 8x22B", 1, MIXTRAL_8X22B, "the same formula with other numbers"),
)

MISTAKES = edits("""
every expert is active: Counts all E experts as active and computed. A token uses k: the point of a sparse model.
- router = num_experts
+ top_k = num_experts; router = num_experts
two matrices in an expert: Counts two matrices in an expert. SwiGLU has three: gate, up and down.
- 3 * d_model * d_ff
+ 2 * d_model * d_ff
no router: Leaves out the router. It is small, but published numbers include it.
- (attention + router + (
+ (attention + (
router of k rows: Counts k rows of the router as active. It scores all E experts before any is chosen.
- (attention + router + (
+ (attention + experts * d_model + (
as many key heads as queries: Gives keys and values H heads. In grouped-query attention they have K.
- (num_heads + num_kv_heads)
+ 2 * num_heads
square attention: Takes d for H h. They are often equal, but need not be.
- 2 * d_model * d_head * (num_heads + num_kv_heads)
+ 2 * d_model * (d_model + d_head * num_kv_heads)
one matrix for input and output: Counts them once, as for tied embeddings. Here both matrices are stored.
- embedding = vocab_size * d_model
+ embedding = 0
multiplies with the embedding: Counts FLOPs for the embedding. Reading one row of a table multiplies nothing.
- 2 * matrices(top_k)
+ 2 * (embedding + matrices(top_k))
one flop for each parameter: Counts one FLOP per entry. Each takes part in a multiplication and an addition: two.
- 2 * matrices(top_k)
+ matrices(top_k)
no last norm: Leaves out the norm before the output: d scales.
- (2 * num_layers + 1)
+ 2 * num_layers
norms cost flops: Counts FLOPs for the scales of the norms. Only matrix multiplications are counted here.
- 2 * matrices(top_k)
+ 2 * (matrices(top_k) + norms)
shared among the k: Takes the shared experts out of the k. They come on top.
- matrices(num_experts) + norms
+ matrices(num_experts) + norms; top_k -= shared_experts
computes with floats: A float has 53 bits: the last digits of large counts are lost. Stay with integers.
- attention = 2 * d_model
+ d_model = float(d_model); attention = 2 * d_model
- return total, active, 2 * matrices(top_k)
+ return int(total), int(active), int(2 * matrices(top_k))
counts in 64 bits: NumPy's integers wrap around without a word. Python's do not.
- return total, active, 2 * matrices(top_k)
+ return tuple((n + 2**63) % 2**64 - 2**63 for n in (total, active, 2 * matrices(top_k)))
one norm for each layer: A layer has two norms: before the attention and before the experts.
- (2 * num_layers + 1)
+ (num_layers + 1)
no shared experts in the flops: A shared expert works for every token.
- return total, active, 2 * matrices(top_k)
+ flops = 2 * matrices(top_k) - 2 * num_layers * shared_experts * expert; return total, active, flops
""")
