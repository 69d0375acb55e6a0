"""Trees of experts: at each inner node a router for its branches, and the experts at the leaves."""

from dataclasses import replace
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..kernels import to_host
from ..nn import Module
from ..nn.sizes import require_sizes
from ..ops import Concatenate
from ..typing import Bool, Float, Int, Random
from .dispatch import Combine, Permute, gate_input
from .experts import rows_of_experts
from .flattening import tokens_and_batch, with_padding
from .layer import MoE, Recipe
from .router import Router
from .routing import Routing


class HierarchicalMoE(Module):
    """y = Σ_g G_g(x) y_g(x): a router for the branches, and in each branch a smaller tree or, at the end, a mixture.

    With two levels, y = Σ_g G_g(x) Σ_j G_(j|g)(x) f_gj(x) (Jordan and Jacobs 1994, equations 1 to 3; sparse in Shazeer
    et al. 2017, appendix B); an expert has the product of the gate weights on the path to it. All routers have the
    same configuration, and all branches of a level are alike. ``dispatch`` is that of the mixtures at the end.

    The routing that comes back is that of the root, with the auxiliary losses of all routers and those of the tree;
    ``children`` has the routings of the branches.

    Args:
        num_experts: of all branches together; the numbers of branches in ``recipe.groups`` must divide it.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        recipe: Recipe,
        *,
        dispatch: str = "sorted",
        rng: Random,
        dtype: Any = np.float32,
    ):
        require_sizes(d_model=d_model, d_ff=d_ff, num_experts=num_experts)
        branches, *below = recipe.groups or (0,)
        if recipe.router is None or branches < 1 or num_experts % branches:
            raise ValueError(f"groups must divide num_experts={num_experts}, got {branches}")
        self.d_model, self.num_experts = d_model, num_experts
        self.losses = recipe.tree_losses
        self.router = Router(recipe.router, d_model, branches, rng=rng, dtype=dtype)
        router = replace(recipe.router, selection=recipe.router.selection.within_group())
        inner = replace(recipe, router=router, groups=tuple(below), tree_losses=())
        branch = HierarchicalMoE if below else MoE
        self.groups = [
            branch(d_model, d_ff, num_experts // branches, inner, dispatch=dispatch, rng=rng, dtype=dtype)
            for _ in range(branches)
        ]

    def forward(
        self,
        x: Float[Tensor, "*batch d"],
        rng: Random | None = None,
        token_ids: Int[Any, "*batch"] | None = None,
        mask: Bool[Any, "*batch"] | None = None,
        modality: Int[np.ndarray, "*batch"] | None = None,
    ) -> tuple[Float[Tensor, "*batch d"], Routing]:
        """As :meth:`MoE.forward`. Each branch sees only its own tokens."""
        tokens, batch, padding = tokens_and_batch(x, self.d_model, self.training, rng, token_ids, mask, modality)
        routing = self.router(tokens, batch)
        kept = routing.only_kept()
        rows, gate = gate_input(Permute.apply(tokens, kept.token), kept.gate, kept)
        ids = None if batch.token_ids is None else batch.token_ids.reshape(-1)[kept.token]
        of_rows = None if batch.modality is None else batch.modality.reshape(-1)[to_host(kept.token)]
        answers, children = [], []
        for group, mine in zip(self.groups, rows_of_experts(routing.offsets), strict=True):
            own = [None if of_row is None else of_row[mine] for of_row in (ids, of_rows)]
            answer, inner = group(rows[mine], rng, own[0], None, own[1])
            answers.append(answer)
            children.append(inner)
        y = Combine.apply(Concatenate.apply(*answers, axis=0), gate, kept.token, num_tokens=routing.num_tokens)
        routing = self._with_losses(replace(routing, children=tuple(children)))
        return (y.reshape(*x.shape), routing) if padding is None else with_padding(y, routing, padding)

    def _with_losses(self, routing: Routing) -> Routing:
        """The losses of all levels by name, and their weighted sum."""
        losses, total = dict(routing.losses), routing.auxiliary_loss
        for g, inner in enumerate(routing.children):
            losses |= {f"group {g} {name}": loss for name, loss in inner.losses.items()}
            if inner.auxiliary_loss is not None:
                total = inner.auxiliary_loss if total is None else total + inner.auxiliary_loss
        for part in self.losses:
            losses[part.name] = part(routing)
            term = losses[part.name] * part.coefficient
            total = term if total is None else total + term
        return replace(routing, losses=losses, auxiliary_loss=total)

    def active_parameters(self) -> int:
        """The router, and on average k branches with the active parameters of one."""
        return self.router.num_parameters() + round(self.router.per_token * self.groups[0].active_parameters())
