"""Exercise 04: the backward walk through a graph of ops."""

from typing import Any

import numpy as np

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.autodiff.graph import _count_consumers, _input_gradients, _sum
from moe_numpy.ops import Negate

from ..exercise import Case, Check, Exercise, case

EXERCISE = Exercise(
    number=4,
    name="backward_walk",
    title="The backward walk",
    teaches="How gradients find their way: each op once, after everything that used it, and sums where paths meet.",
    difficulty=3,
    minutes=30,
    needs=(2,),
    target="moe_numpy.autodiff.graph:_walk",
    imports=("from moe_numpy.autodiff.graph import _input_gradients",),
    hints=(
        "An op may run only when its gradient is complete. What must be known beforehand to see that it is?",
        "Two passes. First go through all edges from the root and count how many lead to each op. Then keep a list of "
        "ready ops: take one, run it, add its gradients where its edges lead, count down, and append what reaches 0.",
        "count = Counter(), stack = [root]: pop an op, and for each edge to an op push its source if it is not in "
        "count yet, then count[source] += 1. Walk with arrived = {op: [None] per output}; pass arrived.pop(op, None) "
        "to _input_gradients; count down even if the gradient is None.",
    ),
)


class _Recorded(Function):
    """An op that keeps what its backward was called with."""

    def backward(self, *grads: Any) -> Any:
        self.__dict__.setdefault("calls", []).append(np.stack(grads))
        return self.input_gradients(*grads)

    def input_gradients(self, *grads: Any) -> Any:
        raise NotImplementedError


class Add(_Recorded):
    """y = a + b; both inputs get the very same array."""

    def forward(self, a: Any, b: Any) -> Any:
        """Add."""
        return a + b

    def input_gradients(self, grad: Any) -> Any:
        """Pass on."""
        return grad, grad


class Multiply(_Recorded):
    """y = a b."""

    def forward(self, a: Any, b: Any) -> Any:
        """Multiply."""
        self.save(a, b)
        return a * b

    def input_gradients(self, grad: Any) -> Any:
        """Times the other factor."""
        a, b = self.saved
        return grad * b, grad * a


class Double(_Recorded):
    """y = 2 x."""

    def forward(self, x: Any) -> Any:
        """Double."""
        return 2 * x

    def input_gradients(self, grad: Any) -> Any:
        """Double."""
        return 2 * grad


class Stop(_Recorded):
    """y = x, without a gradient for x."""

    def forward(self, x: Any) -> Any:
        """A copy."""
        return x.copy()

    def input_gradients(self, grad: Any) -> Any:
        """Nothing flows further."""
        return None


class Fork(_Recorded):
    """(y, z) = (3 x, 5 x): two outputs."""

    def forward(self, x: Any) -> Any:
        """Two arrays."""
        return 3 * x, 5 * x

    def input_gradients(self, dy: Any, dz: Any) -> Any:
        """From both."""
        return 3 * dy + 5 * dz


OPS: dict[str, type[Function]] = {"add": Add, "mul": Multiply, "double": Double, "stop": Stop, "fork": Fork}

# A program is a list of ops. Its inputs are numbers of values: first the leaves, then every output in turn.
DIAMONDS = [  # number of leaves, program, whether the last leaf is a constant
    (1, [["double", 0], ["double", 0], ["add", 1, 2]]),
    (2, [["mul", 0, 1], ["double", 2], ["add", 2, 3], ["mul", 4, 2]]),
    (1, [["double", 0], ["double", 1], ["double", 2], ["add", 1, 3]]),
    (1, [["double", 0], ["double", 1], ["double", 2], ["add", 3, 1]]),
    (2, [["add", 0, 1], ["double", 2], ["mul", 2, 3], ["add", 4, 3], ["mul", 5, 2], ["add", 6, 1]]),
]
REUSE = [
    (1, [["mul", 0, 0]]),
    (1, [["double", 0], ["mul", 1, 1]]),
    (1, [["double", 0], ["mul", 1, 1], ["double", 1], ["double", 3], ["add", 2, 4]]),
    (1, [["double", 0], ["mul", 1, 1], ["double", 1], ["double", 3], ["add", 4, 2]]),
]
SHARED = [  # an array that add gave to two inputs must not be written to
    (2, [["add", 0, 1], ["double", 0], ["add", 2, 3]]),
    (2, [["double", 0], ["double", 1], ["add", 2, 3], ["double", 2], ["add", 4, 5]]),
]
STOPPED = [
    (2, [["double", 0], ["stop", 2], ["mul", 3, 1], ["add", 4, 2]]),
    (2, [["double", 0], ["stop", 2], ["mul", 2, 1], ["mul", 3, 4]]),
    (2, [["double", 0], ["double", 2], ["stop", 3], ["mul", 4, 1]]),
]
TWO_OUTPUTS = [
    (1, [["fork", 0], ["mul", 1, 2]]),
    (1, [["double", 0], ["fork", 1], ["double", 3], ["add", 4, 3]]),
    (1, [["fork", 0], ["double", 2], ["mul", 3, 1], ["add", 4, 2]]),
    (1, [["double", 0], ["fork", 1]]),
]
LADDER = [(1, [step for i in range(0, 12, 2) for step in (["double", i], ["add", i, i + 1])])]
OUTSIDE = [  # an op that uses a value but that the result does not depend on must not be waited for
    (2, [["double", 0], ["double", 2], ["mul", 2, 1]]),
    (2, [["mul", 0, 1], ["mul", 2, 0], ["fork", 2], ["double", 5], ["add", 2, 0]]),
]
ONE_OP = [(1, [["double", 0]]), (2, [["mul", 0, 1]])]


def _build(program: Any, leaves: Any, wanted: Any) -> tuple[list[Tensor], list[Any], list[Tensor]]:
    inputs = [Tensor(x, requires_grad=w) for x, w in zip(leaves, wanted, strict=True)]
    values, ops = list(inputs), []
    for name, *places in program:
        outputs = OPS[name].apply(*[values[i] for i in places])
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        values += outputs
        ops.append(outputs[0].function)
    return inputs, ops, values


def leaf_gradients(solution: Any, program: Any, leaves: Any, wanted: Any, gradient: Any) -> Any:
    """Walk; the gradient of each leaf."""
    inputs, _, values = _build(program, leaves, wanted)
    found: dict[Any, Any] = {}
    solution(values[-1].function, values[-1].output_index, gradient, False, found)
    return tuple(found.get(leaf) for leaf in inputs)


def calls(solution: Any, program: Any, leaves: Any, wanted: Any, gradient: Any) -> Any:
    """Walk and keep the graph; the gradients that each op's backward was called with, one row for each call."""
    _, ops, values = _build(program, leaves, wanted)
    solution(values[-1].function, values[-1].output_index, gradient, True, {})
    return tuple(np.array(getattr(op, "calls", [])) for op in ops if op is not None)


def released(solution: Any, program: Any, leaves: Any, wanted: Any, gradient: Any, retain_graph: Any) -> Any:
    """Walk; whether each op was released."""
    _, ops, values = _build(program, leaves, wanted)
    solution(values[-1].function, values[-1].output_index, gradient, retain_graph, {})
    return np.array([op.released for op in ops])


def chain(solution: Any, x: Any, gradient: Any, length: Any) -> Any:
    """Walk a chain of many ops; the gradient of the only leaf."""
    start = Tensor(x, requires_grad=True)
    y = start
    for _ in range(length):
        y = Negate.apply(y)
    found: dict[Any, Any] = {}
    solution(y.function, 0, gradient, False, found)
    return found[start]


def specification(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Find all ops; then look, again and again, for one that no waiting op uses."""
    waiting = [root]
    for op in waiting:  # grows while it is walked
        waiting += {e.source: None for e in op.edges if e is not None and not e.is_leaf and e.source not in waiting}
    arrived: dict[Any, Any] = {op: [None] * len(op.outputs) for op in waiting}
    arrived[root][output_index] = gradient
    while waiting:
        used = {e.source for op in waiting for e in op.edges if e is not None}
        op = next(op for op in waiting if op not in used)
        waiting.remove(op)
        got = arrived[op] if any(g is not None for g in arrived[op]) else None
        edges = op.edges
        for edge, g in zip(edges, _input_gradients(op, got), strict=True):
            if g is not None and edge.is_leaf:
                leaf_gradients[edge.source] = leaf_gradients.get(edge.source, 0) + g
            elif g is not None:
                before = arrived[edge.source][edge.output_index]
                arrived[edge.source][edge.output_index] = g if before is None else before + g
        if not retain_graph:
            op.release()


def _walking(*graphs: Any, retain_graph: bool | None = None, frozen: bool = False) -> Any:
    def cases(rng: np.random.Generator) -> list[Case]:
        found = []
        for num_leaves, program in graphs:
            leaves = [rng.standard_normal((2, 3)) for _ in range(num_leaves)]
            wanted = [not (frozen and i == num_leaves - 1) for i in range(num_leaves)]
            flags = [] if retain_graph is None else [retain_graph]
            found.append(case(program, leaves, wanted, rng.standard_normal((2, 3)), *flags))
        return found

    return cases


def deep(rng: np.random.Generator) -> list[Case]:
    """More ops in a row than Python allows nested calls, and an odd number."""
    return [case(rng.standard_normal(2), rng.standard_normal(2), 1101)]


# Wrong solutions


def _walk_like(
    root: Any,
    output_index: Any,
    gradient: Any,
    retain_graph: Any,
    leaves: Any,
    *,
    count: Any = _count_consumers,
    add: Any = _sum,
    add_leaf: Any = _sum,
    none_delivers: bool = True,
    index_of: Any = lambda edge: edge.output_index,
    release: bool = True,
    always_release: bool = False,
) -> None:
    left, ready = count(root), [root]
    arrived: dict[Any, Any] = {root: [None] * len(root.outputs)}
    arrived[root][output_index] = gradient
    while ready:
        op = ready.pop()
        gradients, edges = _input_gradients(op, arrived.pop(op, None)), op.edges
        if always_release or (release and not retain_graph):
            op.release()
        for edge, g in zip(edges, gradients, strict=True):
            if edge is None or (g is None and not none_delivers):
                continue
            if edge.is_leaf:
                if g is not None:
                    leaves[edge.source] = add_leaf(leaves[edge.source], g) if edge.source in leaves else g
                continue
            if g is not None:
                slots = arrived.setdefault(edge.source, [None] * len(edge.source.outputs))
                before = slots[index_of(edge)]
                slots[index_of(edge)] = g if before is None else add(before, g)
            left[edge.source] -= 1
            if left[edge.source] == 0:
                ready.append(edge.source)


def _overwrite(before: Any, g: Any) -> Any:
    return g


def _add_in_place(before: Any, g: Any) -> Any:
    before += g
    return before


def _count_ops(root: Any) -> Any:
    """How many ops use each op, however often."""
    seen = [root]
    count: dict[Any, int] = {}
    for op in seen:
        for source in {e.source for e in op.edges if e is not None and not e.is_leaf}:
            count[source] = count.get(source, 0) + 1
            if source not in seen:
                seen.append(source)
    return count


def once_for_each_path(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Goes down at once whenever a gradient arrives. Where paths meet, everything below runs once for each path."""
    stack = [(root, output_index, gradient)]
    while stack:
        op, i, g = stack.pop()
        arrived: list[Any] = [None] * len(op.outputs)
        arrived[i] = g
        gradients, edges = _input_gradients(op, arrived), op.edges
        if not retain_graph:
            op.release()
        for edge, d in zip(edges, gradients, strict=True):
            if edge is None or d is None:
                continue
            if edge.is_leaf:
                before = leaf_gradients.get(edge.source)
                leaf_gradients[edge.source] = d if before is None else before + d
            else:
                stack.append((edge.source, edge.output_index, d))


def first_come_first_served(
    root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any
) -> None:
    """Runs an op as soon as the first gradient reaches it, and never again: what comes later is lost."""
    queue, seen = [root], {root}
    arrived = {root: [None] * len(root.outputs)}
    arrived[root][output_index] = gradient
    for op in queue:  # grows while it is walked
        gradients, edges = _input_gradients(op, arrived.get(op)), op.edges
        if not retain_graph:
            op.release()
        for edge, g in zip(edges, gradients, strict=True):
            if edge is None or g is None:
                continue
            if edge.is_leaf:
                before = leaf_gradients.get(edge.source)
                leaf_gradients[edge.source] = g if before is None else before + g
                continue
            slots = arrived.setdefault(edge.source, [None] * len(edge.source.outputs))
            before = slots[edge.output_index]
            slots[edge.output_index] = g if before is None else before + g
            if edge.source not in seen:
                seen.add(edge.source)
                queue.append(edge.source)


def overwrites_inside(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """`arrived[source] = grad` keeps the last gradient of an op with several consumers. They add up."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, add=_overwrite)


def overwrites_leaves(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Keeps the last gradient of a leaf that is used several times. Leaves collect sums too."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, add_leaf=_overwrite)


def adds_in_place(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """`seen += grad` writes into an array that an op may have handed to another input too, as a + b does."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, add=_add_in_place, add_leaf=_add_in_place)


def counts_ops_instead_of_edges(
    root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any
) -> None:
    """Counts the ops that use an op. x · x is one op with two edges to x: its two deliveries make x run too early."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, count=_count_ops)


def none_never_delivers(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Skips an edge whose gradient is None before counting it: its source then waits for ever."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, none_delivers=False)


def first_output_only(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Puts every gradient at output 0 and ignores edge.output_index. An op can have several outputs."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, index_of=lambda edge: 0)


def starts_at_output_zero(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Hands the first gradient to output 0 of the root and ignores output_index."""
    _walk_like(root, 0, gradient, retain_graph, leaf_gradients)


def never_releases(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Keeps what every op saved. Calling op.release() on the way lets memory fall while the walk goes on."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, release=False)


def always_releases(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Releases every op although retain_graph asks to keep them for another walk."""
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients, always_release=True)


def recursive(root: Any, output_index: Any, gradient: Any, retain_graph: Any, leaf_gradients: Any) -> None:
    """Sorts by recursion. Python allows about a thousand nested calls; a deep model has more ops in a row."""
    order: list[Any] = []
    seen = set()

    def visit(op: Any) -> None:
        seen.add(op)
        for edge in op.edges:
            if edge is not None and not edge.is_leaf and edge.source not in seen:
                visit(edge.source)
        order.append(op)

    visit(root)
    _walk_like(root, output_index, gradient, retain_graph, leaf_gradients)


CHECKS = (
    Check("a single op", 1, _walking(*ONE_OP), "hand the gradient to the root, its results to leaves", leaf_gradients),
    Check(
        "gradients add up where paths meet",
        2,
        _walking(*DIAMONDS),
        "draw the graph of the case; the gradient of a leaf is a sum over all paths to it",
        leaf_gradients,
    ),
    Check(
        "each op once, after all its consumers",
        4,
        _walking(*DIAMONDS, *LADDER),
        "count the edges to each op, run it when all have delivered; result i are the calls of op i, one row each",
        calls,
    ),
    Check(
        "an op used twice by the same op",
        2,
        _walking(*REUSE),
        "x · x has two edges to x: count both; result i are the calls of op i, one row each",
        calls,
    ),
    Check("a leaf used twice", 1, _walking(*REUSE[:1]), "leaves collect sums too", leaf_gradients),
    Check("adds out of place", 1, _walking(*SHARED), "write a + b, never a += b", leaf_gradients),
    Check(
        "None ends a branch, not the walk",
        2,
        _walking(*STOPPED),
        "an edge with a None has delivered: count it down; result i are the calls of op i, one row each",
        calls,
    ),
    Check("only what the result depends on", 1, _walking(*OUTSIDE), "begin counting at the root", leaf_gradients),
    Check("constants have no edge", 1, _walking(*OUTSIDE, frozen=True), "skip edges that are None", leaf_gradients),
    Check(
        "ops with several outputs",
        2,
        _walking(*TWO_OUTPUTS),
        "one place for each output: output_index",
        leaf_gradients,
    ),
    Check(
        "more ops in a row than Python nests calls",
        1,
        deep,
        "keep a list of what is ready instead of recursion",
        chain,
        second_oracle=False,
    ),
    Check(
        "releases what it has passed",
        1,
        _walking(*DIAMONDS, *STOPPED, retain_graph=False),
        "keep op.edges, call op.release(), then go through the edges",
        released,
    ),
    Check("keeps the graph if asked", 1, _walking(*DIAMONDS, retain_graph=True), "look at retain_graph", released),
)

MISTAKES = (
    once_for_each_path,
    first_come_first_served,
    overwrites_inside,
    overwrites_leaves,
    adds_in_place,
    counts_ops_instead_of_edges,
    none_never_delivers,
    first_output_only,
    starts_at_output_zero,
    never_releases,
    always_releases,
    recursive,
)
