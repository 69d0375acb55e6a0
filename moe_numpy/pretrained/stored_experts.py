"""Experts that stay in their files: the matrices of one are read when a token asks for it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..autodiff import Tensor
from ..moe.experts import make_experts, rows_of_experts
from ..nn import Module
from ..nn.module import Unfilled
from ..ops import Concatenate
from ..typing import Array, Float

Read = Callable[[int], Mapping[str, Float[Array, "..."]]]


class StoredExperts(Module):
    """What :func:`moe_numpy.moe.experts.make_experts` makes, for evaluation, without its memory.

    Args:
        kind: of expert.
        sizes: E, d and f.
        settings: of the kind.
        read: the parameters of one expert by name, in float32.
    """

    def __init__(self, kind: str, sizes: tuple[int, int, int], settings: Mapping[str, float], read: Read):
        self.num_experts, d_model, d_ff = sizes
        template: Any = make_experts(kind, 1, d_model, d_ff, rng=Unfilled(), dtype=np.float32, **settings)

        def answer(e: int, x: Tensor) -> Tensor:  # a function, so that the template is no part of the model
            for name, array in read(e).items():
                getattr(template, name).data = array[None]
            y: Tensor = template(x, np.array([0, x.shape[0]]))
            return y

        self.one = answer
        self._size = self.num_experts * template.num_parameters()

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        """The rows of one expert after the other."""
        answers = [x[:0]]
        for e, rows in enumerate(rows_of_experts(offsets)):
            if rows.stop > rows.start:
                answers.append(self.one(e, x[rows]))
        return Concatenate.apply(*answers, axis=0)

    def num_parameters(self) -> int:
        """How many numbers the files hold."""
        return self._size
