"""Exercise 38: which expert leaves memory."""

from typing import Any

import numpy as np

from moe_numpy.inference.policies import History
from moe_numpy.inference.residency import Residency

from ..exercise import Case, Check, Exercise, case, one_by_one
from ..mistakes import edits

EXERCISE = Exercise(
    number=38,
    name="expert_store",
    title="Which expert leaves memory",
    teaches="Layers come in a circle, so the expert used last is needed last: least recently used is the wrong rule.",
    difficulty=2,
    minutes=20,
    target="moe_numpy.inference.policies:next_layer",
    hints=(
        "The expert with the lowest numbers leaves. Return a tuple of four arrays, [L, E] each, the most significant "
        "first; booleans count as 0 and 1. Do not change the history.",
        "Turns unused: history.turn[:, None] - history.last_turn; the most must leave, so it enters with a minus. "
        "Layers until the next turn of layer l: (l - history.layer - 1) % L; the farthest must leave.",
        "until = (np.arange(L) - history.layer - 1) % L; return history.expected, -unused, "
        "np.broadcast_to(-until[:, None], unused.shape), history.last_use.",
    ),
)


def ranked(solution: Any, layers: int, experts: int, events: Any) -> Any:
    """Replay events, and ask for the numbers of all experts.

    An event is a layer and experts: asked for; guessed where the layer is counted from -1 downwards; read in advance
    where it is counted from the number of layers upwards.

    Raises:
        TypeError: what comes back is no tuple.
        ValueError: the history was changed.
    """
    history, untouched = _replayed(layers, experts, events), _replayed(layers, experts, events)
    numbers = solution(history)
    if type(numbers) is not tuple:
        raise TypeError(f"returned a {type(numbers).__name__}, expected a tuple of four arrays")
    if not all(np.array_equal(value, vars(untouched)[name]) for name, value in vars(history).items()):
        raise ValueError("the history was changed; a policy only looks at it")
    return tuple(np.array(n) if n is history.expected or n is history.last_use else n for n in numbers)


def hits(solution: Any, layers: int, experts: int, slots: int, requests: Any) -> Any:
    """A cache with this policy, request after request: which of them had to read an expert."""
    cache = Residency(layers, experts, slots, solution)
    missing = []
    for layer, *asked in requests:
        cache.release()
        missing.append(len(cache.request(layer, asked)))
    return np.array(missing), np.array([e for layer in range(layers) for e in cache.present(layer)], np.int64)


def specification(history: Any) -> Any:
    """Expert by expert."""
    layers, experts = history.last_use.shape
    following = [(history.layer + 1 + i) % layers for i in range(layers)]
    unused, until = np.zeros((2, layers, experts), np.int64)
    for layer, e in np.ndindex(layers, experts):
        unused[layer, e] = int(history.turn[layer]) - int(history.last_turn[layer, e])
        until[layer, e] = following.index(layer)
    return history.expected, -unused, -until, history.last_use


def _replayed(layers: int, experts: int, events: Any) -> History:
    history = History(layers, experts)
    for layer, *named in events:
        if layer < 0:
            history.expect(-1 - layer, named)
        elif layer >= layers:
            history.touch(layer - layers, named)
        else:
            history.request(layer, named)
    return history


def _decoding(rng: np.random.Generator, layers: int, experts: int, k: int, steps: int) -> list[list[int]]:
    """Tokens one after the other through all layers; popular experts are asked for more often."""
    share = np.linspace(3, 1, experts) / np.linspace(3, 1, experts).sum()
    draw = lambda: rng.choice(experts, k, replace=False, p=share).tolist()  # noqa: E731
    return [[step % layers, *draw()] for step in range(steps)]


def one_layer(rng: np.random.Generator) -> list[Case]:
    """With one layer the order of use decides, by turns and within them."""
    return [case(1, e, _decoding(rng, 1, e, k, n)) for e, k, n in ((6, 1, 9), (8, 2, 7), (4, 3, 5), (5, 1, 1))]


def several_layers(rng: np.random.Generator) -> list[Case]:
    """Each time the model has stopped at another layer."""
    sizes = ((3, 5, 1, 13), (4, 4, 2, 18), (2, 6, 2, 11), (5, 3, 1, 5), (4, 6, 2, 23))
    return [case(layers, e, _decoding(rng, layers, e, k, n)) for layers, e, k, n in sizes]


def guesses(rng: np.random.Generator) -> list[Case]:
    """Some experts are guessed; a guess about a layer that had its turn has served."""
    cases = []
    for layers, e, n in ((3, 5, 11), (4, 4, 14), (2, 6, 7)):
        events = _decoding(rng, layers, e, 2, n)
        last = events[-1][0]
        for ahead in (1, 2):
            guessed = rng.choice(e, 2, replace=False).tolist()
            events.append([-1 - (last + ahead) % layers, *guessed])
        cases.append(case(layers, e, events))
        cases.append(case(layers, e, [*events, [(last + 1) % layers, 0]]))
    return cases


def skipping(rng: np.random.Generator) -> list[Case]:
    """Layers that had more turns than others: prompts, and layers that a token skips; never come to; far apart."""
    some = [[int(rng.integers(4)), *rng.choice(5, 2, replace=False).tolist()] for _ in range(25)]
    return [case(4, 5, some), case(6, 3, [[0, 0], [2, 1], [0, 1], [2, 2]]), case(3, 4, [])]


def in_advance(rng: np.random.Generator) -> list[Case]:
    """Experts that were read before anybody asked for them, in a layer that had its turn and in one that had none."""
    cases = []
    for layers, e, n in ((3, 5, 8), (2, 6, 5), (4, 4, 3)):
        events = _decoding(rng, layers, e - 1, 1, n)
        last = events[-1][0]
        events += [[layers + (last + 1) % layers, e - 1, 0], [layers + last, e - 1]]
        cases += [case(layers, e, events), case(layers, e, [*events, *_decoding(rng, layers, e - 1, 1, layers)])]
    return cases


def frequent(rng: np.random.Generator) -> list[Case]:
    """Experts that were asked for often, and long ago."""
    often = [[layer, 0] for _ in range(9) for layer in range(3)]
    since = [[layer, 1 + (t + layer) % 3] for t in range(2) for layer in range(3)]
    return [case(3, 4, often + since), case(3, 4, [*often, *since, [0, 3], [1, 2]])]


def caches(rng: np.random.Generator) -> list[Case]:
    """What it is for: slots for some of all experts, and a model that generates."""
    sizes = ((3, 4, 1, 6, 40), (4, 6, 2, 10, 60), (2, 5, 2, 4, 30), (5, 4, 1, 9, 60))
    return [case(layers, e, slots, _decoding(rng, layers, e, k, n)) for layers, e, k, slots, n in sizes]


def many(rng: np.random.Generator) -> list[Case]:
    """More than 255 turns and uses, and more than 32,767 of one expert."""
    return [
        case(2, 3, [[t % 2, int(t % 7 == 0)] for t in range(700)] + [[0, 2]]),
        case(1, 3, [[0, 0]] + [[0, 1]] * 300 + [[0, 2]]),
    ]


BY_HAND = one_by_one(case(2, 2, [[0, 0], [1, 1], [0, 1], [1, 0], [0, 0], [-2, 1]]))
CHECKS = (
    Check("turns of one layer", 2, one_layer, "turns unused, and within a turn the order of use", run=ranked),
    Check("layers in a circle", 4, several_layers, "the layer after history.layer comes next", run=ranked),
    Check("guesses are kept", 3, guesses, "what is expected leaves last, whatever else is known", run=ranked),
    Check("layers that had more turns", 2, skipping, "count each layer's own turns: history.turn[layer]", run=ranked),
    Check("frequent long ago", 1, frequent, "how often an expert was used plays no part", run=ranked),
    Check("read in advance", 1, in_advance, "last_turn and last_use know of it; uses counts requests", run=ranked),
    Check("hits of a cache", 2, caches, "the lowest leaves: mind the signs", run=hits),
    Check("long histories", 1, many, "compare the numbers as they are, in int64", run=ranked),
    Check("an order by hand", 1, BY_HAND, "layer 1 is next and expects expert 1, which stays longest", run=ranked),
)

MISTAKES = edits("""
reads in advance forgotten: Trusts the turn only of experts that were asked for. Those read in advance have one, too.
- history.turn[:, None] - history.last_turn
+ history.turn[:, None] - np.where(history.uses > 0, history.last_turn, 0)
plain least recently used: The layers that come next had their last turn the longest ago, and would go first.
- return history.expected, -unused, np.broadcast_to(-until[:, None], unused.shape), history.last_use
+ return (history.last_use,)
least frequently used: Counts uses. An expert that was popular long ago would stay for ever.
- return history.expected, -unused, np.broadcast_to(-until[:, None], unused.shape), history.last_use
+ return history.uses, history.last_use
ignores guesses: An expert that is about to be needed leaves like any other.
- return history.expected, -unused
+ return -unused
throws guesses out: The lowest number leaves: a guess must be 1, and the others 0.
- return history.expected
+ return ~history.expected
most recently unused stays: Without the minus the expert that went unused longest is kept.
- -unused, np
+ unused, np
next layer leaves first: Without the minus the layer that comes next is the first to go.
- np.broadcast_to(-until[:, None], unused.shape)
+ np.broadcast_to(until[:, None], unused.shape)
the present layer comes next: The layer at work has just had its turn: it comes last. Begin with the one after it.
- np.arange(num_layers) - history.layer - 1
+ np.arange(num_layers) - history.layer
counts from layer 0: Layers form a circle: after the last comes the first. What is next depends on where the model is.
- (np.arange(num_layers) - history.layer - 1) % num_layers
+ np.arange(num_layers)
no circle: Takes the distance without the circle: layers before the present one get negative distances.
- (np.arange(num_layers) - history.layer - 1) % num_layers
+ np.arange(num_layers) - history.layer - 1
circle backwards: Counts layers back from the present one.
- np.arange(num_layers) - history.layer - 1
+ history.layer - np.arange(num_layers)
layers before turns: How long an expert went unused comes first; the next turn of its layer decides between equals.
- -unused, np.broadcast_to(-until[:, None], unused.shape)
+ np.broadcast_to(-until[:, None], unused.shape), -unused
one clock for all: Compares turns of this layer with the turns of the model's busiest one. Each layer has its own.
- history.turn[:, None]
+ history.turn.max()
no clock: The turn of the last use alone: layers that had more turns than others then look fresher.
- history.turn[:, None] - history.last_turn
+ -history.last_turn
forgets the order within a turn: Of experts equal in all else, the one whose use is longest ago leaves, not the first.
- unused.shape), history.last_use
+ unused.shape)
uses before the last use: Between equals the last use decides, not how often there was one.
- unused.shape), history.last_use
+ unused.shape), history.uses, history.last_use
guesses come last: A guess is the most significant: it says what will happen, the rest only what did.
- return history.expected, -unused, np.broadcast_to(-until[:, None], unused.shape), history.last_use
+ return -unused, np.broadcast_to(-until[:, None], unused.shape), history.expected, history.last_use
""")
