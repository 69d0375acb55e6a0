"""The backward walk: from a result to the leaves, each op once, after everything that used it.

The walk keeps its own stack, so a chain of 100,000 ops needs no deep recursion. What an op saved is released
as soon as the walk has passed it, so memory use falls during the walk.
"""

import os
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from array_api_compat import array_namespace

from ..kernels import add
from .arrays import is_finite, is_float, library_of, sum_of
from .modes import NonFiniteError, modes

if TYPE_CHECKING:
    from .function import Edge, Function
    from .tensor import Tensor

_writing = threading.Lock()  # threads may share leaves; a fork waits, so that the child does not inherit it locked
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


def backward(root: "Tensor", gradient: Any, retain_graph: bool) -> None:
    """Add the gradient of every leaf that ``root`` was computed from to its ``.grad``.

    No leaf is written before the whole walk has succeeded.
    """
    leaf_gradients: dict[Tensor, Any] = {}
    if root.function is None:
        leaf_gradients[root] = gradient
    else:
        _walk(root.function, root.output_index, gradient, retain_graph, leaf_gradients)
    with _writing:
        for leaf, total in leaf_gradients.items():
            held = total.shape if leaf.grad is None else getattr(leaf.grad, "shape", None)
            if held != total.shape:
                name = leaf.name or "a leaf"
                raise RuntimeError(
                    f"the .grad of {name} has shape {held}, its gradient {total.shape}; set .grad to None"
                )
        for leaf, total in leaf_gradients.items():
            leaf.grad = total if leaf.grad is None else _sum(leaf.grad, total)


def _walk(
    root: "Function",
    output_index: int,
    gradient: Any,
    retain_graph: bool,
    leaf_gradients: "dict[Tensor, Any]",
) -> None:
    """Run ``root`` and each op below it backward once, after all its consumers, and sum up what reaches the leaves.

    ``op.edges`` has one entry per input of the op: None where no gradient is needed, otherwise an edge that says
    where the gradient goes. If ``edge.is_leaf``, it goes to the Tensor ``edge.source``; if not, to the op
    ``edge.source``, as the gradient of its output number ``edge.output_index``. Where several edges lead to the
    same place, gradients add up, out of place, since an op may return one array for several inputs.

    An op is ready when every edge that leads to it, from ``root`` and the ops below, has delivered; None counts as
    delivered. Then ``_input_gradients(op, arrived)`` runs its backward and returns a gradient or None per edge.
    ``arrived`` is a list with one entry per output in ``op.outputs``, None where nothing arrived; if nothing
    arrived at all, it is None.

    Args:
        root: the op to start from.
        output_index: which of its outputs ``gradient`` belongs to.
        gradient: dL/d(that output).
        retain_graph: if False, ``op.release()`` is called right after each op's backward; it empties ``op.edges``.
        leaf_gradients: empty; filled with the gradient of each leaf that one arrives at.
    """
    consumers_left = _count_consumers(root)
    arrived: dict[Function, list[Any]] = {root: [None] * len(root.outputs)}
    arrived[root][output_index] = gradient
    ready = [root]
    while ready:
        op = ready.pop()
        input_gradients = _input_gradients(op, arrived.pop(op, None))
        edges = op.edges
        if not retain_graph:
            op.release()
        for edge, grad in zip(edges, input_gradients, strict=True):
            if edge is None:
                continue
            if edge.is_leaf:
                if grad is not None:
                    seen = leaf_gradients.get(edge.source)
                    leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
                continue
            source = edge.source
            if grad is not None:
                slots = arrived.setdefault(source, [None] * len(source.outputs))
                seen = slots[edge.output_index]
                slots[edge.output_index] = grad if seen is None else _sum(seen, grad)
            consumers_left[source] -= 1
            if consumers_left[source] == 0:
                ready.append(source)


def _count_consumers(root: "Function") -> "Counter[Function]":
    """How many edges lead to each op: it runs backward when all of them have delivered."""
    count: Counter[Function] = Counter()
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and not edge.is_leaf:
                if edge.source not in count:
                    stack.append(edge.source)
                count[edge.source] += 1
    return count


def _input_gradients(op: "Function", arrived: list[Any] | None) -> Sequence[Any]:
    """Run ``op.backward`` and check its result against the contract of :class:`Function`."""
    if op.released:
        raise RuntimeError(
            f"backward() came to {op.name} a second time, but the first walk released what it had saved; "
            "run the forward pass again, or call the first backward(retain_graph=True)"
        )
    if arrived is None:  # every consumer passed None
        return (None,) * len(op.edges)
    if len(arrived) > 1:
        arrived = _with_zeros(op, arrived)
    try:
        result = op.backward(*arrived)
    except Exception as error:
        error.add_note(f"in {op.name}.backward")
        raise
    if type(result) is not tuple:
        result = (result,)
    if len(result) != len(op.edges):
        raise RuntimeError(
            f"{op.name}.backward returned {len(result)} gradients for {len(op.edges)} inputs; "
            "it must return one gradient, or None, for each"
        )
    return [
        None if edge is None or grad is None else _conform(op, i, edge, grad)
        for i, (edge, grad) in enumerate(zip(op.edges, result, strict=True))
    ]


def _sum(a: Any, b: Any) -> Any:
    """a + b out of place, as an array: NumPy returns a scalar for 0-dimensional arrays."""
    total = add(a, b)
    return np.asarray(total) if isinstance(total, np.generic) else total


def _with_zeros(op: "Function", arrived: list[Any]) -> list[Any]:
    """Zeros for float outputs that no gradient reached; integer outputs keep None."""
    xp = array_namespace(next(g for g in arrived if g is not None))
    return [
        xp.zeros(shape, dtype=dtype) if g is None and is_float(dtype) else g
        for g, (shape, dtype) in zip(arrived, op.outputs, strict=True)
    ]


def _conform(op: "Function", i: int, edge: "Edge", grad: Any) -> Any:
    """Undo broadcasting and type promotion, then check shape, dtype and device."""
    if isinstance(grad, np.generic | np.matrix):
        grad = np.asarray(grad)
    if isinstance(grad, np.ma.MaskedArray):
        raise RuntimeError(f"{op.name}.backward: the gradient of input {i} is a masked array; return a plain one")
    if library_of(grad) != edge.library:
        raise RuntimeError(
            f"{op.name}.backward: the gradient of input {i} is {type(grad).__module__}.{type(grad).__name__}, "
            f"the input lives in {edge.library}"
        )
    if grad.shape != edge.shape:
        if not _broadcasts(edge.shape, grad.shape):
            raise RuntimeError(
                f"{op.name}.backward: the gradient of input {i} has shape {grad.shape}, "
                f"the input has shape {edge.shape}"
            )
        grad = undo_broadcasting(grad, edge.shape)
    if grad.dtype != edge.dtype:
        if all(dtype == edge.dtype for _, dtype in op.outputs):
            raise RuntimeError(
                f"{op.name}.backward: the gradient of input {i} has dtype {grad.dtype}, the input has "
                f"{edge.dtype} and forward promoted nothing; look for where the other type comes in"
            )
        grad = grad.astype(edge.dtype)
    if modes.check_finite and not is_finite(grad):
        raise NonFiniteError(op.name, "backward", f"a non-finite gradient for input {i} of shape {grad.shape}")
    return grad


def undo_broadcasting(grad: Any, shape: tuple[int, ...]) -> Any:
    """Sum ``grad`` over the axes along which an input of ``shape`` was stretched: the adjoint of broadcasting.

    Broadcasting copies an entry to several places; by the chain rule its gradient is the sum over the copies.
    """
    new_axes = grad.ndim - len(shape)
    stretched = tuple(axis + new_axes for axis, n in enumerate(shape) if n == 1 and grad.shape[axis + new_axes] != 1)
    axes = tuple(range(new_axes)) + stretched
    return sum_of(grad, axes, keepdims=True).reshape(shape) if axes else grad


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(to), strict=False))
