"""The same entries in another shape."""

from typing import Any, SupportsIndex

from array_api_compat import array_namespace

from ..autodiff import Function
from ..kernels import reshaped
from ..typing import Array, Float, Shaped


class Reshape(Function):
    """The entries of x, in C order, under another shape.

    Args:
        shape: the lengths of the axes; one of them may be -1. ValueError if the entries do not fit.
    """

    def forward(self, x: Shaped[Array, "..."], *, shape: tuple[SupportsIndex, ...]) -> Shaped[Array, "..."]:
        self.shape = x.shape
        return reshaped(x, shape)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy in the shape of x."""
        return reshaped(grad, self.shape)


class Transpose(Function):
    """A view of x with its axes in another order: axis i of y is axis ``axes[i]`` of x.

    Args:
        axes: a permutation of all axes; None reverses them.
    """

    def forward(
        self, x: Shaped[Array, "..."], *, axes: tuple[SupportsIndex, ...] | None = None
    ) -> Shaped[Array, "..."]:
        self.axes = tuple(reversed(range(x.ndim))) if axes is None else tuple([a % x.ndim for a in axes])
        return x.transpose(self.axes)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = dy under the inverse permutation."""
        inverse = sorted(range(grad.ndim), key=self.axes.__getitem__)
        return grad.transpose(inverse)


class BroadcastTo(Function):
    """A read-only view of x, repeated along axes of length 1 and along new leading axes.

    Args:
        shape: the shape of the result.
    """

    def forward(self, x: Shaped[Array, "..."], *, shape: tuple[SupportsIndex, ...]) -> Shaped[Array, "..."]:
        return array_namespace(x).broadcast_to(x, shape)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx = Σ dy over the copies; the engine sums, as it does for every op that broadcasts."""
        return grad


class Concatenate(Function):
    """Several arrays one after the other along an axis.

    Args:
        axis: the axis along which they may differ in length.
    """

    def forward(self, *inputs: Shaped[Array, "..."], axis: SupportsIndex) -> Shaped[Array, "..."]:
        if not inputs:
            raise ValueError("there is nothing to concatenate")
        self.axis = axis
        self.lengths = [x.shape[axis] for x in inputs]
        return array_namespace(*inputs).concat(inputs, axis=axis)

    def backward(self, grad: Float[Array, "..."]) -> Any:
        """dx_i = the part of dy that x_i became."""
        along = array_namespace(grad).moveaxis(grad, self.axis, 0)
        ends = [sum(self.lengths[: i + 1]) for i in range(len(self.lengths))]
        parts = [along[end - n : end] for n, end in zip(self.lengths, ends, strict=True)]
        return tuple([array_namespace(grad).moveaxis(part, 0, self.axis) for part in parts])
