"""float32: what the other formats are measured by."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..typing import Array, Float
from .matrix import Matrix, checked


@dataclass(frozen=True, eq=False)
class Float32Matrix(Matrix):
    """Weights [out, in] in float32. ValueError for other arrays."""

    weights: Array
    format = "float32"

    def __post_init__(self) -> None:
        checked("weights", self.weights, np.float32, 2)

    @property
    def arrays(self) -> dict[str, Array]:
        return {"weights": self.weights}

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights.shape

    def dequantise(self, dtype: np.typing.DTypeLike = np.float32) -> Float[Array, "out in"]:
        return self.weights.astype(dtype, copy=False)

    @classmethod
    def encode(cls, weights: Float[Array, "*batch out in"], **settings: Any) -> dict[str, Array]:
        return {"weights": np.ascontiguousarray(weights)}
