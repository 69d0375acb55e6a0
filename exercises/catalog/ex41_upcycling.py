"""Exercise 41: a dense network becomes experts."""

from typing import Any

import numpy as np

from moe_numpy.moe.upcycling import Upcycling

from ..exercise import Case, Check, Exercise, case, standard_checks
from ..mistakes import edits

EXERCISE = Exercise(
    number=41,
    name="upcycling",
    title="Upcycling: the same function at step 0",
    teaches="A trained dense network, cut up and copied, is a Mixture of Experts that computes what it did.",
    difficulty=2,
    minutes=20,
    needs=(7, 15),
    target="moe_numpy.moe.upcycling:Upcycling.experts",
    hints=(
        "Hidden unit u has row u of A and U and column u of D. Part p of G has the units p f/G ... (p + 1) f/G - 1: a "
        "reshape of A and U to [G, f/G, d], and of D to [d, G, f/G], whose first two axes then change places.",
        "self.scales is the pair of U's factor and D's; self.input_scale belongs to A and to U. gate_up is A's part "
        "above U's: np.concatenate along axis 1. np.tile(parts, (self.copies, 1, 1)) puts copy after copy.",
        "a = (gate * input_scale).reshape(G, f // G, d), u likewise from up * input_scale * up_scale, back = (down * "
        "down_scale).reshape(d, G, f // G).swapaxes(0, 1); make each factor of the matrices' dtype, as dtype.type(s).",
    ),
)


def plan(copies: int, granularity: int, scale: float, input_scale: float) -> Upcycling:
    """What the layer of experts needs of a plan."""
    none: Any = None
    return Upcycling(none, copies, granularity, granularity, scale, input_scale, True, 1.0, 0.0)


def cut(
    solution: Any,
    gate: Any,
    up: Any,
    down: Any,
    copies: int,
    granularity: int,
    scale: float = 1.0,
    of_input: float = 1.0,
) -> Any:
    """Build the plan, call, and take the two arrays out of the dict."""
    made = solution(plan(copies, granularity, scale, of_input), gate, up, down)
    if not isinstance(made, dict) or made.keys() != {"gate_up", "down"}:
        raise TypeError("expected a dict with gate_up and down")
    return made["gate_up"], made["down"]


def answers(
    solution: Any, gate: Any, up: Any, down: Any, copies: int, granularity: int, scale: float, x: Any, chosen: Any
) -> Any:
    """What a layer of these experts answers to x, each token with the copies of its parts and equal gate weights."""
    gate_up, back = cut(solution, gate, up, down, copies, granularity, scale)
    y = np.zeros((len(x), down.shape[0]), x.dtype)
    for t, (row, numbers) in enumerate(zip(x, chosen, strict=True)):
        for part, copy in enumerate(numbers):
            e = copy * granularity + part
            h = gate_up[e] @ row
            a, u = np.split(h, 2)
            y[t] += back[e] @ (a / (1 + np.exp(-a)) * u) / scale
    return y


def specification(self: Any, gate: Any, up: Any, down: Any) -> Any:
    """Unit by unit."""
    (f, d), parts = gate.shape, self.granularity
    if f % parts:
        raise ValueError(f"{parts} parts of {f} units")
    width = f // parts
    power = 2.0 ** round(np.log2(self.scale) / 2)
    gate_up = np.zeros((self.copies * parts, 2 * width, d), gate.dtype)
    back = np.zeros((self.copies * parts, d, width), gate.dtype)
    for copy in range(self.copies):
        for unit in range(f):
            e, place = copy * parts + unit // width, unit % width
            gate_up[e, place] = gate[unit] * self.input_scale
            gate_up[e, width + place] = up[unit] * (self.input_scale * power)
            back[e, :, place] = down[:, unit] * (self.scale / power)
    return {"gate_up": gate_up, "down": back}


def _dense(rng: np.random.Generator, f: int, d: int) -> tuple[Any, Any, Any]:
    return rng.standard_normal((f, d)), rng.standard_normal((f, d)), rng.standard_normal((d, f))


def copies_alone(rng: np.random.Generator) -> list[Case]:
    """Whole copies, G = 1."""
    sizes = ((4, 3, 2), (5, 2, 4), (3, 3, 1), (2, 5, 7), (4, 3, 2))
    return [case(*_dense(rng, f, d), copies, 1) for f, d, copies in sizes]


def parts(rng: np.random.Generator) -> list[Case]:
    sizes = ((6, 4, 2, 3), (8, 3, 3, 2), (4, 5, 2, 4), (6, 6, 1, 2), (12, 3, 4, 3), (4, 2, 9, 2))
    return [case(*_dense(rng, f, d), copies, granularity) for f, d, copies, granularity in sizes]


def scaled(rng: np.random.Generator) -> list[Case]:
    """s in two factors: powers of two, and what is left; below and above 1."""
    scales = (4.0, 16.0, 8.0, 3.0, 0.25, 6.5, 1.3)
    return [case(*_dense(rng, 6, 4), 2, g, scale=s) for g, s in ((1, 4.0), (1, 0.7), *((3, s) for s in scales))]


def scaled_input(rng: np.random.Generator) -> list[Case]:
    """Where the gate weight scales what an expert sees."""
    return [
        case(*_dense(rng, 6, 4), 2, g, scale=s, of_input=i) for g, s, i in ((1, 1.0, 2.0), (2, 0.5, 3.0), (3, 6.0, 0.7))
    ]


def same_function(rng: np.random.Generator) -> list[Case]:
    """One copy of each part, whichever: together they are the dense network."""
    cases = []
    for f, d, copies, granularity, scale in ((8, 4, 3, 2, 2.0), (6, 3, 2, 3, 3.0), (5, 4, 4, 1, 1.0)):
        x, chosen = rng.standard_normal((4, d)), rng.integers(0, copies, (4, granularity))
        cases.append(case(*_dense(rng, f, d), copies, granularity, scale, x, chosen))
    return cases


def uneven(rng: np.random.Generator) -> list[Case]:
    """G does not divide f."""
    return [case(*_dense(rng, f, 3), 2, g) for f, g in ((5, 2), (7, 3), (2, 4))]


def by_hand(rng: np.random.Generator) -> list[Case]:
    gate, up = np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])
    return [case(gate, up, np.array([[5.0, 6.0]]), 2, 2, scale=4.0)]


CHECKS = (
    Check("whole copies", 2, copies_alone, "gate_up is A above U, copy after copy", run=cut),
    Check("parts of units", 4, parts, "part p has rows p f/G and on of A and U, and the same columns of D", run=cut),
    Check(
        "the scale in two factors",
        3,
        scaled,
        "the first of self.scales goes into U, the second into D, none into A",
        run=cut,
    ),
    Check("the scale of the input", 1, scaled_input, "self.input_scale goes into A and into U", run=cut),
    Check(
        "the same function", 3, same_function, "add up one copy of each part: what is missing or doubled?", run=answers
    ),
    Check("G must divide f", 1, uneven, "ValueError, before anything is cut", run=cut),
    *standard_checks(scaled, run=cut),
    Check("parts by hand", 1, by_hand, "experts [1; 6], [2; 8], [1; 6], [2; 8], and 10, 12, 10, 12", run=cut),
)

MISTAKES = edits("""
copies side by side: Puts all copies of a part together. Expert c G + p is copy c of part p: tile, not repeat.
- np.tile(np.concatenate([a, u], axis=1), (self.copies, 1, 1))
+ np.repeat(np.concatenate([a, u], axis=1), self.copies, axis=0)
- np.tile(back, (self.copies, 1, 1))
+ np.repeat(back, self.copies, axis=0)
parts of D out of order: Repeats D's parts and tiles the others: expert n then has another part's D.
- np.tile(back, (self.copies, 1, 1))
+ np.repeat(back, self.copies, axis=0)
rows of D: Cuts D by rows. A hidden unit is a column of D [d, f].
- reshape(d, parts, f // parts).swapaxes(0, 1)
+ reshape(parts, d, f // parts)
every G-th unit: Deals units out one by one. Any cut would do, but A, U and D must be cut alike: neighbours here.
- .reshape(d, parts, f // parts).swapaxes(0, 1)
+ .reshape(d, f // parts, parts).transpose(2, 0, 1)
deals all units out: Part p has neighbouring units p f/G ..., not p, p + G, ...
- (gate * gate.dtype.type(self.input_scale)).reshape(parts, f // parts, d)
+ (gate * gate.dtype.type(self.input_scale)).reshape(f // parts, parts, d).swapaxes(0, 1)
- (up * up.dtype.type(self.input_scale * up_scale)).reshape(parts, f // parts, d)
+ (up * up.dtype.type(self.input_scale * up_scale)).reshape(f // parts, parts, d).swapaxes(0, 1)
- .reshape(d, parts, f // parts).swapaxes(0, 1)
+ .reshape(d, f // parts, parts).transpose(2, 0, 1)
up above gate: Stacks U above A. SwiGLU takes silu of the first half.
- np.concatenate([a, u], axis=1)
+ np.concatenate([u, a], axis=1)
interleaved: Alternates rows of A and U. The first f/G rows are A's.
- np.concatenate([a, u], axis=1)
+ np.stack([a, u], axis=2).reshape(parts, -1, d)
no scale: Leaves s out. Gate weights of the parts add up to less than 1 each, and the answer shrinks.
- up_scale, down_scale = self.scales
+ up_scale, down_scale = 1.0, 1.0
all scale in D: Puts s into D alone. The function is the same; the paper finds two factors better for training.
- up_scale, down_scale = self.scales
+ up_scale, down_scale = 1.0, self.scale
factors exchanged: The power of two goes into U, the rest into D.
- up_scale, down_scale = self.scales
+ down_scale, up_scale = self.scales
equal factors: √s for both. A power of two changes no mantissa; √2 changes all.
- up_scale, down_scale = self.scales
+ up_scale = down_scale = self.scale**0.5
scale in A: SwiGLU is not linear in A: silu(2 x) is not 2 silu(x). Scale U and D.
- gate.dtype.type(self.input_scale)
+ gate.dtype.type(self.input_scale * up_scale)
- up.dtype.type(self.input_scale * up_scale)
+ up.dtype.type(self.input_scale)
scale twice: Scales both by s: the answer grows with its square.
- up_scale, down_scale = self.scales
+ up_scale, down_scale = self.scale, self.scale
input scale in U alone: It undoes a gate weight on the input, which both A and U multiply.
- gate.dtype.type(self.input_scale)
+ gate.dtype.type(1.0)
input scale in A alone: It undoes a gate weight on the input, which both A and U multiply.
- up.dtype.type(self.input_scale * up_scale)
+ up.dtype.type(up_scale)
drops what is left over: Cuts off units where G does not divide f: the function changes. ValueError.
- if f % parts:
-         raise ValueError(f"granularity must divide d_ff={f}, the hidden units of the dense network, got {parts}")
+ f = f - f % parts; gate, up, down = gate[:f], up[:f], down[:, :f]
noise: Moves all copies a little. Whatever is to tell copies apart, it is not here: the function must stay the same.
- np.tile(np.concatenate([a, u], axis=1), (self.copies, 1, 1))
+ np.tile(np.concatenate([a, u], axis=1) * a.dtype.type(1.00001), (self.copies, 1, 1))
four copies: Makes at most four copies. There are as many as ``self.copies`` says.
- np.tile(np.concatenate([a, u], axis=1), (self.copies, 1, 1))
+ np.tile(np.concatenate([a, u], axis=1), (min(self.copies, 4), 1, 1))
- np.tile(back, (self.copies, 1, 1))
+ np.tile(back, (min(self.copies, 4), 1, 1))
one copy: Returns the G parts once. There are E copies of each.
- np.tile(np.concatenate([a, u], axis=1), (self.copies, 1, 1))
+ np.concatenate([a, u], axis=1)
- np.tile(back, (self.copies, 1, 1))
+ back
""")
