"""From the bytes of a quantised expert in a store to its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..formats import Matrix
from ..inference import ByteRange
from ..typing import Array
from .quantised import StoredMatrix


@dataclass(frozen=True, eq=False)
class QuantisedPieces:
    """The experts of one layer; what :class:`moe_numpy.pretrained.expert_reading.LayerPieces` is for published ones.

    Attributes:
        stored: by our name of a parameter, that of each expert.
    """

    stored: Mapping[str, Sequence[StoredMatrix]]
    _checked: set[int] = field(default_factory=set)

    @property
    def num_experts(self) -> int:
        """E."""
        return len(next(iter(self.stored.values())))

    def ranges(self, expert: int) -> list[ByteRange]:
        """Where the bytes of an expert are, in the order in which :meth:`matrices` takes them."""
        tensors = [tensor for of in self.stored.values() for tensor in of[expert].tensors.values()]
        return [ByteRange(tensor.file, *tensor.range_of()) for tensor in tensors]

    def matrices(self, expert: int, content: Sequence[np.ndarray]) -> tuple[dict[str, Matrix], dict[str, Array]]:
        """The parameters of an expert by our names: matrices, views of ``content``, and biases.

        PretrainedError for a scale that is not finite, when an expert is first read.
        """
        left, found = iter(content), {}
        for name, of in self.stored.items():
            stored = of[expert]
            found[name] = stored.of([tensor.from_bytes(next(left)) for tensor in stored.tensors.values()])
            if expert not in self._checked:
                stored.require_finite_scales(found[name])
        self._checked.add(expert)
        vectors = {name: of for name, of in found.items() if isinstance(of, np.ndarray)}
        return {name: of for name, of in found.items() if name not in vectors}, vectors

    def decoded(self, expert: int, content: Sequence[np.ndarray]) -> dict[str, Any]:
        """The parameters of an expert by our names, in float32."""
        matrices, vectors = self.matrices(expert, content)
        return {name: matrix.dequantise() for name, matrix in matrices.items()} | vectors
