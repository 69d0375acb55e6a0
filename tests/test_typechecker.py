"""The run-time checks of types and shapes are on, and say what is wrong."""

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float
from typechecker import typechecker

from moe_numpy.kernels import top_k
from moe_numpy.kernels.threads import blocks

checked = jaxtyping.jaxtyped(typechecker=typechecker)


@checked
def plain(x: float, result: object) -> int:
    return result


@checked
def shaped(x: Float[np.ndarray, "n m"], result: object) -> Float[np.ndarray, "m n"]:
    return result


@checked
def later(x: "NotYet", result: object) -> int:  # the name has no meaning when the function is decorated
    return result


NotYet = int
X = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plain("1", 1), "plain"),
        (lambda: plain(1, 1.5), "plain"),
        (lambda: shaped(X[0], X.T), "shaped"),
        (lambda: shaped(X, X), "shaped"),
        (lambda: shaped(X.astype(int), X.T), "shaped"),
        (lambda: later(1, 1.5), "later"),
        (lambda: blocks("3", 1), "blocks"),
        (lambda: top_k.definition(X[0], 1), "top_k"),
    ],
)
def test_what_breaks_its_annotation_is_an_error(call, message):
    with pytest.raises(jaxtyping.TypeCheckError, match=message):
        call()


def test_what_keeps_its_annotation_passes():
    assert plain(1, 2) == plain(1.5, 2) == later(1, 2) == 2
    assert shaped(X, X.T).shape == (3, 2)


@pytest.mark.parametrize("call", [lambda: plain("1", 1.5), lambda: shaped(X[0], 1.5), lambda: later(1, 1.5)])
def test_checks_can_be_switched_off(monkeypatch, call):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert call() == 1.5
