"""Exercise 04: the backward walk through a graph of ops."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from moe_numpy.autodiff import Function, Tensor
from moe_numpy.autodiff.graph import _input_gradients
from moe_numpy.ops import Negate

from ..exercise import Case, Cases, Check, Exercise, case
from ..mistakes import edits

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
        "An op may run only when its gradient is complete. What must you know beforehand to tell that it is?",
        "Two passes. First go through all edges from the root and count how many lead to each op. Then keep a list of "
        "ready ops: take one, run it, add its gradients where its edges lead, count down, and append what reaches 0.",
        "count = Counter(), stack = [root]: pop an op, and for each edge to an op push its source if it is not in "
        "count yet, then count[source] += 1. Walk with arrived = {op: [None] per output}; pass arrived.pop(op, None) "
        "to _input_gradients; count down even if the gradient is None.",
    ),
)


RULES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add": (lambda a, b: a + b, lambda g, a, b: (g, g)),  # one array for both inputs
    "mul": (lambda a, b: a * b, lambda g, a, b: (g * b, g * a)),
    "double": (lambda a: 2 * a, lambda g, a: 2 * g),
    "half": (lambda a, b: a * b, lambda g, a, b: (None, g * a)),
    "stop": (lambda a: a.copy(), lambda g, a: None),
    "fork": (lambda a: (3 * a, 5 * a), lambda g, h, a: 3 * g + 5 * h),
    "comb": (lambda a: (2 * a, 3 * a, 5 * a), lambda f, g, h, a: 2 * f + 3 * g + 5 * h),
    "mul3": (lambda a, b, c: a * b * c, lambda g, a, b, c: (g * b * c, g * a * c, g * a * b)),
    "fail": (lambda a: a.copy(), lambda g, a: np.linalg.cholesky(-np.eye(2))),
}


class Op(Function):
    """One of RULES. It keeps what its backward was called with."""

    name = ""
    calls: list[Any]
    others: "tuple[Op, ...]" = ()
    released_before = 0  # of the others, when backward ran

    def forward(self, *inputs: Any, name: str) -> Any:
        self.name, self.calls = name, []
        self.save(*inputs)
        return RULES[name][0](*inputs)

    def backward(self, *grads: Any) -> Any:
        self.calls.append(np.stack(grads))
        self.released_before = sum(op.released for op in self.others)
        return RULES[self.name][1](*grads, *self.saved)


# A case is a program: its leaves are x and y, its result is the last name.
ONE_OP = ["a = double(x)", "a = mul(x, y)"]
DIAMONDS = [
    "a = double(x); b = double(x); c = add(a, b)",
    "a = mul(x, y); b = double(a); c = add(a, b); d = mul(c, a)",
    "a = double(x); b = double(a); c = double(b); d = add(a, c)",
    "a = double(x); b = double(a); c = double(b); d = add(c, a)",
    "a = add(x, y); b = double(a); c = mul(a, b); d = add(c, b); e = mul(d, a); f = add(e, y)",
]
RUNGS = zip("xbdfhj", "acegik", "bdfhjl", strict=True)
LADDER = "; ".join(f"{b} = double({a}); {c} = add({a}, {b})" for a, b, c in RUNGS)
REUSE = [
    "a = mul(x, x)",
    "a = double(x); b = mul(a, a)",
    "a = double(x); b = add(a, a); c = add(b, x)",
    "a = double(x); b = mul(a, a); c = double(a); d = double(c); e = add(b, d)",
    "a = double(x); b = mul(a, a); c = double(a); d = double(c); e = add(d, b)",
]
SHARED = [
    "a = add(x, y); b = double(x); c = add(a, b)",
    "a = add(x, y); b = double(x); c = add(b, a)",
    "a = double(x); b = double(y); c = add(a, b); d = double(a); e = add(c, d)",
    "a = double(x); b = double(y); c = add(a, b); d = double(a); e = add(d, c)",
]
LEAF_TWICE = "a = double(x); b = double(a); c = add(b, x)"
STOPPED = [
    "a = double(x); b = stop(a); c = mul(b, y); d = add(c, a)",
    "a = double(x); b = stop(a); c = mul(a, y); d = mul(b, c)",
    "a = double(x); b = double(a); c = stop(b); d = mul(c, y)",
    "a = double(x); b = double(y); c = half(a, b); d = add(c, a)",
    "a = double(x); b = half(a, y); c = add(a, b)",
]
NO_LEAF = [  # a None on its way to a leaf: alone, before and after gradients
    "a = stop(x)",
    "a = stop(x); b = mul(a, y)",
    "a = stop(x); b = mul(a, x)",
    "a = stop(x); b = mul(x, a)",
    "a = half(x, y); b = mul(a, x)",
    "a = half(y, x); b = half(y, a)",
]
FAILING = ["a = fail(x)", "a = double(x); b = fail(a); c = add(b, y)", "a = fail(x); b = stop(a); c = mul(b, x)"]
ZERO = ["a = mul(x, y)", "a = double(x); b = mul(a, y); c = add(b, a)"]
OUTSIDE = [  # some ops use a value, but the root does not depend on them: they must not be waited for
    "a = double(x); b = double(a); c = mul(a, y)",
    "a = mul(x, y); b = mul(a, x); c, d = fork(a); e = double(d); f = add(a, x)",
]
TWO_OUTPUTS = [
    "a, b = fork(x); c = mul(a, b)",
    "a = double(x); b, c = fork(a); d = double(c); e = add(d, c)",
    "a, b = fork(x); c = double(b); d = mul(c, a); e = add(d, b)",
    "a = double(x); b, c = fork(a)",
    "a, b, c = comb(x)",
    "a, b, c = comb(x); d = mul3(b, c, b); e = mul(d, a)",
    "a, b, c = comb(x); e, d, f = a, c, b",
    "a, b, c = comb(x); d = double(b); e, f = fork(d); g = mul3(f, b, x)",
]
INPUTS = ["a = mul3(x, x, x)", "a = double(x); b = mul3(a, x, a)", "a = mul3(x, y, x); b = mul3(y, a, a)"]


def programs(*texts: str, dtype: Any = np.float64, **settings: Any) -> Cases:
    def cases(rng: np.random.Generator) -> list[Case]:
        def draw(shape: tuple[int, ...]) -> Any:
            return rng.standard_normal(shape).astype(dtype)

        return [case(t, [draw((2, 3)) for n in "xy" if n in t], draw((2, 3)), **settings) for t in texts]

    return cases


def zero(rng: np.random.Generator) -> list[Case]:
    zeros, nan = np.zeros((2, 3)), np.full((2, 3), np.nan)
    return [case(t, [rng.standard_normal((2, 3)), zeros], g) for t in ZERO for g in (zeros, nan)]


def deep(rng: np.random.Generator) -> list[Case]:
    return [case(rng.standard_normal(2), rng.standard_normal(2), 1101)]


def _run(
    solution: Any, program: str, arrays: Any, gradient: Any, *, retain_graph: bool = False, constant: str = ""
) -> tuple[list[Any], list[Any]]:
    """Build the graph and walk it: the ops, and the gradients of the leaves."""
    leaves = {name: Tensor(a, requires_grad=name != constant) for name, a in zip("xy", arrays, strict=False)}
    values: dict[str, Any] = dict(leaves)
    exec(program, {name: partial(Op.apply, name=name) for name in RULES}, values)
    root = list(values.values())[-1]
    ops = dict.fromkeys(v.function for v in values.values() if v.function is not None)
    for op in ops:
        op.others = tuple(ops)
    found: dict[Any, Any] = {}
    solution(root.function, root.output_index, gradient, retain_graph, found)
    if any(leaf.grad is not None for leaf in leaves.values()):
        raise RuntimeError("wrote to .grad: the gradients of leaves belong into leaf_gradients, the caller adds them")
    if not {*map(id, found)} <= {*map(id, leaves.values())} or any(g is None for g in found.values()):
        raise RuntimeError("leaf_gradients must hold a gradient per leaf that one arrived at, and nothing else")
    return list(ops), [found.get(leaf) for leaf in leaves.values()]


def leaf_gradients(solution: Any, *args: Any, **settings: Any) -> Any:
    return tuple(_run(solution, *args, **settings)[1])


def calls(solution: Any, *args: Any, **settings: Any) -> Any:
    """Per op, in the order of the program: the gradients its backward was called with, one row per call."""
    return tuple(np.array(op.calls) for op in _run(solution, *args, **settings)[0])


def released(solution: Any, *args: Any, **settings: Any) -> Any:
    return np.array([op.released for op in _run(solution, *args, **settings)[0]])


def released_before(solution: Any, *args: Any, **settings: Any) -> Any:
    """How many ops were released when the first, second, ... op ran backward."""
    return np.array(sorted(op.released_before for op in _run(solution, *args, **settings)[0]))


def chain(solution: Any, x: Any, gradient: Any, length: int) -> Any:
    leaf = y = Tensor(x, requires_grad=True)
    for _ in range(length):
        y = Negate.apply(y)
    found: dict[Any, Any] = {}
    solution(y.function, 0, gradient, False, found)
    return found[leaf]


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


MEET = "draw the graph of the case; the gradient of a leaf is a sum over all paths to it"
ONCE = "count the edges to each op, run it when all have delivered; result i: the calls of op i, one row each"
TWICE = "x · x has two edges to x: count both; result i: the calls of op i, one row each"
NONE = "an edge with a None has delivered: count it down; result i: the calls of op i, one row each"
ROOM = "keep op.edges, call op.release(), then go through the edges"
CHECKS = (
    Check("a single op", 1, programs(*ONE_OP), "hand the gradient to the root, its results to leaves", leaf_gradients),
    Check("gradients add up where paths meet", 2, programs(*DIAMONDS), MEET, leaf_gradients),
    Check("each op once, after all its consumers", 4, programs(*DIAMONDS, LADDER, retain_graph=True), ONCE, calls),
    Check("an op used twice by the same op", 2, programs(*REUSE, retain_graph=True), TWICE, calls),
    Check("a leaf used twice", 1, programs(REUSE[0], LEAF_TWICE), "leaves collect sums too", leaf_gradients),
    Check("adds out of place", 1, programs(*SHARED), "write a + b, never a += b", leaf_gradients),
    Check("None ends a branch, not the walk", 2, programs(*STOPPED, retain_graph=True), NONE, calls),
    Check("None for a leaf is no gradient", 1, programs(*NO_LEAF), "leave such a leaf out", leaf_gradients),
    Check(
        "an op that fails ends the walk",
        1,
        programs(*FAILING),
        "an exception of a backward is the caller's to see",
        leaf_gradients,
    ),
    Check("an op of three inputs", 1, programs(*INPUTS), "each edge counts", leaf_gradients),
    Check("only what the result depends on", 1, programs(*OUTSIDE), "begin counting at the root", leaf_gradients),
    Check(
        "a gradient of zero or NaN arrives", 1, zero, "zeros and NaN are gradients; only None is none", leaf_gradients
    ),
    Check(
        "constants have no edge",
        1,
        programs(*OUTSIDE, "a = mul(y, x)", constant="y"),
        "skip edges that are None",
        leaf_gradients,
    ),
    Check("ops with several outputs", 2, programs(*TWO_OUTPUTS), "one place per output: output_index", leaf_gradients),
    Check("thousands of ops in a row", 1, deep, "keep a list of ready ops; do not recurse", chain, second_oracle=False),
    Check("releases what it has passed", 1, programs(*DIAMONDS, *STOPPED), ROOM, released),
    Check("releases on the way", 1, programs(*DIAMONDS), "release each op as soon as it ran", released_before),
    Check("float32", 1, programs(*DIAMONDS, dtype=np.float32), "sums keep the dtype", leaf_gradients),
    Check("keeps the graph if asked", 1, programs(*DIAMONDS, retain_graph=True), "look at retain_graph", released),
)

MISTAKES = edits("""
once for each path: Goes down whenever a gradient arrives: below a meeting of paths, everything runs once per path.
- slots = arrived.setdefault(source, [None] * len(source.outputs))
+ slots = [None] * len(source.outputs); ready.append((source, slots))
- ready = [root]
+ ready = [(root, arrived[root])]
- op = ready.pop()
+ op, got = ready.pop()
- arrived.pop(op, None)
+ got
- ready.append(source)
+ pass
first come first served: Runs an op as soon as the first gradient reaches it, and never again: what comes later is lost.
- _count_consumers(root)
+ dict.fromkeys(_count_consumers(root), 1)
overwrites inside: Keeps the last gradient of an op with several consumers. They add up.
- slots[edge.output_index] = grad if seen is None else _sum(seen, grad)
+ slots[edge.output_index] = grad
overwrites leaves: Keeps the last gradient of a leaf that is used several times. Leaves collect sums too.
- leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
+ leaf_gradients[edge.source] = grad
adds in place: `seen += grad` may write into an array that an op returned for another input too, as a + b does.
- total = add(a, b)
+ a += b; total = a
counts ops instead of edges: x · x is one op with two edges to x. Counted once, x runs before both have delivered.
- edge in stack.pop().edges
+ edge in {e and e.source: e for e in stack.pop().edges}.values()
none never delivers: Skips an edge whose gradient is None before counting it: its source then waits forever.
- if edge is None:
+ if edge is None or grad is None:
first output only: Puts every gradient at output 0 and ignores edge.output_index. An op can have several outputs.
- slots[edge.output_index] = grad
+ slots[0] = grad
- seen = slots[edge.output_index]
+ seen = slots[0]
starts at output zero: Hands the first gradient to output 0 of the root and ignores output_index.
- arrived[root][output_index]
+ arrived[root][0]
never releases: Keeps what every op saved. Calling op.release() on the way frees memory while the walk goes on.
- if not retain_graph:
-             op.release()
+ pass
always releases: Releases every op although retain_graph says to keep them for another walk.
- if not retain_graph:
-             op.release()
+ op.release()
recursive: Counts by recursion. Python allows about a thousand nested calls; a deep model has more ops in a row.
- stack.append(edge.source)
+ _count_consumers(edge.source, count)
- _count_consumers(root: "Function")
+ _count_consumers(root: "Function", count=None)
- count: Counter[Function] = Counter()
+ count = Counter() if count is None else count
adds to leaves in place: `seen += grad` at a leaf writes into an array that an op returned for another input too.
- leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
+ leaf_gradients[edge.source] = grad if seen is None else np.add(seen, grad, out=seen)
zero is nothing: Skips a gradient whose entries are all 0. The leaf then has no gradient instead of zeros.
- if grad is not None:
-                     seen = leaf_gradients.get(edge.source)
+ if grad is not None and grad.any():
+                     seen = leaf_gradients.get(edge.source)
stops at a constant: `break` where `continue` belongs: inputs behind a constant get no gradient.
- if edge is None:
-                 continue
+ if edge is None:
+                 break
averages where paths meet: Takes the mean of what arrives. The chain rule adds up paths.
- slots[edge.output_index] = grad if seen is None else _sum(seen, grad)
+ slots[edge.output_index] = grad if seen is None else _sum(seen, grad) / 2
same array once: An op may return one array for two inputs, as a + a does. It is two gradients, which add up.
- slots[edge.output_index] = grad if seen is None else _sum(seen, grad)
+ slots[edge.output_index] = grad if seen is None or seen is grad else _sum(seen, grad)
releases at the end: All that the ops saved then stays in memory until the walk is over. Release each one after it ran.
- ready = [root]
+ ready = [root]; passed = []
- if not retain_graph:
-             op.release()
+ passed.append(op)
- ready.append(source)
+ ready.append(source)
+     for op in () if retain_graph else passed:
+         op.release()
adds up in float64: The gradient of a float32 input must be float32. Add as they come.
- total = add(a, b)
+ total = np.add(a, b, dtype=np.float64)
stops at none: `break` where `continue` belongs: what comes behind a gradient of None gets nothing.
- if grad is not None:
-                 slots
+ if grad is None:
+                 break
+             if True:
+                 slots
stores None: A None that reaches a leaf is no gradient: leave the leaf out, or None + a gradient fails later.
- if grad is not None:
-                     seen = leaf_gradients.get(edge.source)
-                     leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
+ seen = leaf_gradients.get(edge.source)
+                 leaf_gradients[edge.source] = grad if seen is None else seen if grad is None else _sum(seen, grad)
writes to the leaves: The caller adds what is in leaf_gradients to .grad; done here too, it counts twice.
- leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
+ leaf_gradients[edge.source] = edge.source.grad = grad if seen is None else _sum(seen, grad)
swallows exceptions: A failing backward then looks like one without gradients. Let the exception through.
- input_gradients = _input_gradients(op, arrived.pop(op, None))
+ try:
+             input_gradients = _input_gradients(op, arrived.pop(op, None))
+         except Exception:
+             continue
last output for any other: An op can have more than two outputs: use output_index as it is.
- slots[edge.output_index] = grad
+ slots[-1 if edge.output_index else 0] = grad
- seen = slots[edge.output_index]
+ seen = slots[-1 if edge.output_index else 0]
NaN is nothing: Leaves out a gradient with NaN. Whoever looks for its origin must see where it arrives.
- if edge is None:
+ if edge is None or (grad is not None and np.isnan(grad).any()):
first comes, first stays: Keeps the first gradient of a leaf that is used several times. Leaves collect sums.
- leaf_gradients[edge.source] = grad if seen is None else _sum(seen, grad)
+ leaf_gradients[edge.source] = grad if seen is None else seen
""")
