"""Run-time checks of shapes switched off, for tests that repeat the same forward pass a thousand times."""

from contextlib import contextmanager

import jaxtyping


@contextmanager
def unchecked_shapes():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
