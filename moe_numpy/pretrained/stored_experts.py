"""Experts that stay in their files: the matrices of one are decoded when a token asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..autodiff import Tensor
from ..moe.experts import make_experts, rows_of_experts
from ..nn import Module
from ..nn.module import Unfilled
from ..ops import Concatenate
from ..typing import Array, Float
from .expert_reading import Matrices, StoredLayer
from .stored_matrices import StoredMatrices


@dataclass(frozen=True, eq=False)
class _Stack:
    """One parameter of all experts, as an array that is read expert by expert."""

    name: str
    shape: tuple[int, ...]
    reader: StoredLayer
    dtype = np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, e: int) -> Float[Array, "..."]:
        return self.reader.read(e)[self.name]


class StoredExperts(Module):
    """What :func:`moe_numpy.moe.experts.make_experts` makes, for evaluation, without its memory.

    Args:
        kind: of expert.
        sizes: E, d and f.
        settings: of the kind.
        reader: of the files.

    Attributes:
        reader: of the files.
        stacks: the parameters, of all experts each, for who writes them elsewhere.
        matrices: the same experts from arrays to arrays.
    """

    def __init__(self, kind: str, sizes: tuple[int, int, int], settings: Mapping[str, float], reader: StoredLayer):
        self.num_experts, d_model, d_ff = sizes
        template: Any = make_experts(kind, 1, d_model, d_ff, rng=Unfilled(), dtype=np.float32, **settings)
        unfilled = {name: parameter.data for name, parameter in template.named_parameters()}
        for parameter in template.parameters():  # no graph, which would keep what was read
            parameter.requires_grad = False

        def answer(matrices: Matrices, x: Tensor) -> Tensor:  # a function: the template is no part of the model
            for name, array in matrices.items():
                getattr(template, name).data = array[None]
            y: Tensor = template(x, np.array([0, x.shape[0]]))
            for name, nothing in unfilled.items():  # the next one to be read may be of another layer
                getattr(template, name).data = nothing
            return y

        self.one, self.reader = answer, reader
        self.matrices = StoredMatrices(reader, kind, settings)
        one = {name: parameter.shape for name, parameter in template.named_parameters()}
        self.stacks = tuple(_Stack(name, (self.num_experts, *shape[1:]), reader) for name, shape in one.items())
        self.num_stored = self.num_experts * template.num_parameters()

    def forward(self, x: Float[Tensor, "N d"], offsets: Any) -> Float[Tensor, "N d"]:
        """The rows of one expert after the other, zeros for those of none."""
        rows = rows_of_experts(offsets)
        wanted = {e: of.stop - of.start for e, of in enumerate(rows) if of.stop > of.start}
        answers = {e: self.one(matrices, x[rows[e]]) for e, matrices in self.reader.each(wanted)}
        of_none = x.data[rows[-1].stop :]
        nothing = Tensor(array_namespace(of_none).zeros_like(of_none))
        return Concatenate.apply(x[:0], *(answers[e] for e in wanted), nothing, axis=0)
