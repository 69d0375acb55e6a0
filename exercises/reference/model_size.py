"""The size of a model like Mixtral. The library counts many more kinds of models."""


def model_size(
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
    """Total parameters, active parameters and FLOPs of a token, for a decoder all of whose layers are sparse.

    The parts, none with biases:

    - an embedding [V, d] and, stored apart from it, an output matrix [V, d];
    - in each layer: attention with queries [H h, d], keys and values [K h, d] each, output [d, H h];
      a router [E, d]; E experts and the shared ones, each SwiGLU of three matrices (gate, up, down) of d f entries;
      two RMSNorms with d scales each;
    - one RMSNorm before the output.

    Args:
        d_model: d.
        vocab_size: V.
        num_layers: L.
        num_heads: H query heads.
        num_kv_heads: K key and value heads.
        d_head: h, width of a head; H h need not be d.
        d_ff: f, hidden width of an expert.
        num_experts: E experts in a layer, of which a token meets
        top_k: k.
        shared_experts: further experts in a layer, which every token meets.

    Returns:
        (total, active, flops). ``active`` counts what one token meets: k of the E experts and everything else, the
        embedding included. ``flops`` is 2 for each entry of a matrix that one token is multiplied by: the embedding
        is looked up, and scales are not counted; nor are the scores of attention.
    """
    attention = 2 * d_model * d_head * (num_heads + num_kv_heads)
    router = num_experts * d_model
    expert = 3 * d_model * d_ff
    embedding = vocab_size * d_model
    norms = (2 * num_layers + 1) * d_model

    def matrices(experts: int) -> int:
        return num_layers * (attention + router + (experts + shared_experts) * expert) + vocab_size * d_model

    total = embedding + matrices(num_experts) + norms
    active = embedding + matrices(top_k) + norms
    return total, active, 2 * matrices(top_k)
