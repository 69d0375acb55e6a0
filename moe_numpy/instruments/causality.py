"""Does an earlier output move when a later token is exchanged? Then the layer cannot be used to predict text."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..moe import Recipe, RouterConfig
from .influence import Influence, Pair, influence
from .probe import as_recipe


@dataclass(frozen=True)
class Causality:
    """The answer of :func:`causality`, with its evidence.

    Attributes:
        training: the strongest pair of a later token and an earlier output that moved, with noise and balancing on;
            None where nothing moved.
        evaluation: the same in evaluation.
        selection_says: ``Selection.causal`` of the recipe; None for a recipe without selection. It speaks of the
            selection alone: a capacity can leak the future of a causal selection.
        probes: exchanges tried in each mode.
    """

    training: Pair | None
    evaluation: Pair | None
    selection_says: bool | None
    probes: int

    @property
    def causal(self) -> bool:
        """Whether no probe found a leak, in either mode."""
        return self.training is None and self.evaluation is None

    def as_json(self) -> dict[str, Any]:
        """Numbers, strings and None only."""
        return {"causal": self.causal, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{mode:<10}  " + (f"not causal: {leak}" if leak else f"causal in {self.probes} exchanges of a token")
            for mode, leak in (("training", self.training), ("evaluation", self.evaluation))
        ]
        if self.selection_says and not self.causal:
            lines.append("The selection calls itself causal: the leak is in who is dropped, or it is mistaken.")
        return "\n".join(lines)


def causality(recipe: Recipe | RouterConfig, *, num_experts: int = 16, seeds: int = 4) -> Causality:
    """Exchange later tokens and compare earlier outputs of the same sequence, in both modes.

    A leak that is found is certain; if none is found, none is likely. The number of tokens is fixed: a capacity that
    grows with each appended token is not probed.
    """
    router = as_recipe(recipe).router
    modes = [influence(recipe, training=mode, num_experts=num_experts, seeds=seeds) for mode in (True, False)]
    return Causality(
        future_leak(modes[0]),
        future_leak(modes[1]),
        None if router is None else router.selection.causal,
        modes[0].probes,
    )


def future_leak(found: Influence) -> Pair | None:
    """The strongest pair of a later token and an earlier output of one sequence."""
    position = np.arange(len(found.change))
    return found.strongest(found.same_sequence & (position[:, None] > position[None, :]))
