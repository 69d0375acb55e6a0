"""Two switches of the engine: whether ops record a graph, and whether they look for non-finite values.

Each thread has its own: ``no_grad()`` in a data-loading thread does not affect the training thread.
"""

from ..blocks import Block, Blocks


class _Modes:
    def __init__(self) -> None:
        self.no_grad_blocks = Blocks()
        self.check_finite_blocks = Blocks()

    @property
    def record_graph(self) -> bool:
        return self.no_grad_blocks.innermost() is None

    @property
    def check_finite(self) -> bool:
        return self.check_finite_blocks.innermost() is not None


modes = _Modes()


def no_grad() -> Block:
    """Run ops without recording a graph: nothing is saved, nothing can be differentiated.

    ``with no_grad():``, or a decorator of functions and generators: ``@no_grad()``.
    """
    return Block(modes.no_grad_blocks)


def check_finite() -> Block:
    """Raise :class:`NonFiniteError` at the first op whose output or gradient is NaN or infinite.

    This reads every array once more, so training turns it on only to find the op behind a failed step.
    """
    return Block(modes.check_finite_blocks)


class NonFiniteError(FloatingPointError):
    """An op produced NaN or infinity; ``op`` is its name and ``where`` is 'forward' or 'backward'."""

    def __init__(self, op: str, where: str, detail: str):
        super().__init__(f"{op}.{where} produced {detail}")
        self.op, self.where = op, where
