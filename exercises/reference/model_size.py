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
    """Total parameters, active parameters and FLOPs per token of a decoder with only sparse layers.

    The parts, all without biases:

    - an embedding [V, d] and a separate output matrix [V, d];
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
        d_head: h, width of a head; H h may differ from d.
        d_ff: f, hidden width of an expert.
        num_experts: E, experts per layer.
        top_k: k, the number of them that a token uses.
        shared_experts: further experts per layer, used by every token.

    Returns:
        (total, active, flops). ``active`` counts what one token uses: k of the E experts and everything else, the
        embedding included. ``flops`` is 2 per entry of the matrices that one token is multiplied by. The embedding
        is looked up, so it costs none; norms and attention scores are not counted.
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
