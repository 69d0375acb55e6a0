"""The Functions of a recorded graph."""

from ..autodiff import Function, Tensor


def functions_of(root: Tensor) -> list[Function]:
    """Every Function that ``root`` was computed with, each once, the ones closest to the result first.

    Raises:
        ValueError: ``root`` has no graph.
    """
    if root.function is None:
        raise ValueError("root must be the result of differentiable operations; this Tensor has no graph")
    found, queue = {root.function}, [root.function]
    for function in queue:
        for edge in function.edges:
            if edge is not None and not edge.is_leaf and edge.source not in found:
                found.add(edge.source)
                queue.append(edge.source)
    return queue
