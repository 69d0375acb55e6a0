"""Does a token's output depend on which tokens share the batch: other sequences, or others of its own sequence?"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..moe import Recipe, RouterConfig
from .influence import Influence, Pair, influence


@dataclass(frozen=True)
class Dependence:
    """The strongest effects that exchanging one token had on the output of another; None where there was none.

    Attributes:
        other_sequences: on a token of another sequence.
        own_sequence: on another token of the same sequence, earlier or later.
    """

    other_sequences: Pair | None
    own_sequence: Pair | None


@dataclass(frozen=True)
class BatchDependence:
    """The answer of :func:`batch_dependence`: both modes, and how many exchanges were tried in each."""

    training: Dependence
    evaluation: Dependence
    probes: int

    @property
    def independent(self) -> bool:
        """Whether a token's output depended on that token alone, in either mode."""
        found = (self.training, self.evaluation)
        return not any(mode.other_sequences or mode.own_sequence for mode in found)

    def as_json(self) -> dict[str, Any]:
        """Numbers, strings and None only."""
        return {"independent": self.independent, **asdict(self)}

    def __str__(self) -> str:
        lines = []
        for mode, found in (("training", self.training), ("evaluation", self.evaluation)):
            for what, pair in (("other sequences", found.other_sequences), ("own sequence", found.own_sequence)):
                lines.append(f"{mode:<10}  {what:<15}  " + (f"yes: {pair}" if pair else "no dependence"))
        return "\n".join(lines)


def batch_dependence(recipe: Recipe | RouterConfig, *, num_experts: int = 16, seeds: int = 4) -> BatchDependence:
    """Exchange one token and compare the outputs of all others, in both modes."""
    modes = [influence(recipe, training=mode, num_experts=num_experts, seeds=seeds) for mode in (True, False)]
    return BatchDependence(dependence(modes[0]), dependence(modes[1]), modes[0].probes)


def dependence(found: Influence) -> Dependence:
    """Split what was found by where the exchanged token was."""
    same = found.same_sequence
    others = ~np.eye(len(same), dtype=bool)
    return Dependence(found.strongest(~same), found.strongest(same & others))
