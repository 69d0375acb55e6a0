"""Parameters of an architecture, by part: total and active."""

from dataclasses import dataclass, fields

from .architecture import Architecture
from .layers import Entries


@dataclass(frozen=True)
class Parameters:
    """Parameters by part. A matrix shared by input and output is counted once, as ``output``."""

    embedding: Entries
    attention: Entries
    norms: Entries
    dense: Entries
    router: Entries
    experts: Entries
    shared_experts: Entries
    output: Entries

    def parts(self) -> dict[str, int]:
        """Number of parameters by name of the part."""
        return {field.name: getattr(self, field.name).total for field in fields(self)}

    @property
    def with_embedding(self) -> int:
        """All parts. Mistral and Qwen count active parameters this way."""
        return sum(self.parts().values())

    @property
    def without_embedding(self) -> int:
        """All parts but the input embedding, of which a token reads one row. OpenAI counts this way.

        A matrix shared with the output is included: every token is multiplied by it.
        """
        return self.with_embedding - self.embedding.total

    @property
    def multiplied(self) -> int:
        """Entries of weight matrices; of active parameters, the multiply-adds per token."""
        return sum(getattr(self, field.name).multiplied for field in fields(self))


def total_parameters(architecture: Architecture) -> Parameters:
    """All stored parameters except :func:`balancing_biases`."""
    return _parameters(architecture, experts=architecture.num_experts)


def active_parameters(architecture: Architecture) -> Parameters:
    """Parameters that one token uses: top_k experts per sparse layer, and everything else.

    With an encoder: those that one source token and one target token use together.
    """
    return _parameters(architecture, experts=architecture.top_k)


def balancing_biases(architecture: Architecture) -> int:
    """E per sparse layer, if the model has them. Gradients do not train them, so they are counted separately.

    Source: DeepSeek-V3 2024, section 2.1.2.
    """
    return architecture.balancing_bias * architecture.num_sparse_layers * architecture.num_experts


def _parameters(a: Architecture, experts: int) -> Parameters:
    """All parts, with ``experts`` experts per sparse layer."""
    d, none = a.d_model, Entries()
    num_stacks = 2 if a.num_encoder_layers else 1
    num_attentions = a.num_encoder_layers + num_stacks * a.num_layers  # a decoder layer may have two
    num_norms = num_attentions + a.num_encoder_layers + a.num_layers + num_stacks
    position_table = Entries(other=a.relative_positions * a.attention.num_heads)
    matrix = d * a.vocab_size
    router = Entries(d * a.num_experts, a.router_bias * a.num_experts)
    shared = a.shared_expert.entries(d) + Entries(a.shared_expert_gate * d) if a.shared_expert else none
    return Parameters(
        embedding=none if a.tied_embeddings else Entries(other=matrix),
        attention=a.attention.entries(d) * num_attentions + position_table * num_stacks,
        norms=Entries(other=d) * num_norms + a.attention.norms() * num_attentions,
        dense=a.feed_forward.entries(d) * a.num_dense_layers if a.feed_forward else none,
        router=router * a.num_sparse_layers,
        experts=a.expert.entries(d) * (experts * a.num_sparse_layers) if a.expert else none,
        shared_experts=shared * a.num_sparse_layers,
        output=Entries(matrix),
    )
