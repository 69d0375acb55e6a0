"""Everything that is counted from a routed text, in one place: what tables and figures of a model show."""

from dataclasses import dataclass

import numpy as np

from ..typing import Array, Float, Int
from .coactivation import Pair, chosen_together, closest_pairs
from .dependence import Explained, explained_beyond_chance
from .positions import position_groups
from .routed_text import RoutedText, shares
from .routing_report import most_separating, separation
from .typical_tokens import Typical, typical_labels

_SEED = 0  # of the shuffles


@dataclass(frozen=True, eq=False)
class Findings:
    """What a routed text shows, layer by layer, domain by domain, and by groups of positions.

    Attributes:
        routed: the text.
        domain_expert: how often tokens of each domain asked for each expert.
        position_names: of the groups of positions that occur.
        position_expert: how often tokens at each of them asked for each expert.
        typical: the most typical tokens of each expert, layer by layer.
        together: how many tokens chose each pair of experts.
        pairs: the pairs that stand out, layer by layer.
        explained: how much of the first choice a label explains, by label, layer by layer.
    """

    routed: RoutedText
    domain_expert: Int[Array, "layers domains E"]
    position_names: list[str]
    position_expert: Int[Array, "layers positions E"]
    typical: list[list[list[Typical]]]
    together: Int[Array, "layers E E"]
    pairs: list[list[Pair]]
    explained: dict[str, list[Explained]]

    @property
    def domain_shares(self) -> Float[Array, "layers domains E"]:
        """Each expert's share of a domain's assignments."""
        return shares(self.domain_expert)

    @property
    def separation(self) -> Float[Array, " layers"]:
        """How far apart the two most similar domains of a layer are."""
        return separation(self.domain_shares)

    @property
    def clearest_layer(self) -> int:
        """The number of the layer that separates the domains best."""
        return self.routed.layers[most_separating(self.domain_shares)]

    def frequent_tokens(self, limit: int) -> tuple[Int[Array, " rows"], Int[Array, "layers rows E"]]:
        """The most frequent tokens, ascending, and how often each asked for each expert."""
        ids, code, count = np.unique(self.routed.ids, return_inverse=True, return_counts=True)
        top = np.sort(np.argsort(-count, kind="stable")[:limit])
        row = np.full(len(ids), len(top))
        row[top] = np.arange(len(top))
        return ids[top], self.routed.counts(row[code], len(top) + 1)[:, :-1]


def findings_of(routed: RoutedText, num_domains: int, *, min_count: int) -> Findings:
    """Count.

    Args:
        routed: the text.
        num_domains: how many domains the text has.
        min_count: the least choices of an expert by a token that is called typical.
    """
    group, names = position_groups(routed.position)
    occurs = np.unique(group)
    num_experts = routed.num_experts
    together = [chosen_together(c.token, c.expert, num_experts) for c in routed.choices]
    return Findings(
        routed=routed,
        domain_expert=routed.counts(routed.domain, num_domains),
        position_names=[names[i] for i in occurs],
        position_expert=routed.counts(group, len(names))[:, occurs],
        typical=[
            typical_labels(routed.ids[c.token], c.expert, num_experts, min_count=min_count) for c in routed.choices
        ],
        together=np.stack(together),
        pairs=[closest_pairs(of_layer) for of_layer in together],
        explained={name: _explained(routed, label, name) for name, label in _labels(routed, num_domains).items()},
    )


def _labels(routed: RoutedText, num_domains: int) -> dict[str, Int[Array, " N"]]:
    labels = {"token": routed.ids, "token before": routed.before, "position": routed.position}
    return labels | ({"domain": routed.domain} if num_domains > 1 else {})


def _explained(routed: RoutedText, label: Int[Array, " N"], name: str) -> list[Explained]:
    rng = np.random.default_rng(_SEED)
    within = name == "position"
    return [explained_beyond_chance(c.first, label, routed.window, rng, within=within) for c in routed.choices]
