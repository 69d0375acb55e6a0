"""The run-time type checker that pytest applies to the package: beartype, with integers welcome as floats.

A function with shapes in its annotations is checked by jaxtyping, which remembers the lengths of the axes. Any other
is checked by beartype alone: the same types and the same error, in a fifth of the time.
"""

from functools import wraps
from typing import Any, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))
with_shapes = jaxtyping.jaxtyped


def checked(*, typechecker: Any) -> Any:
    """What the import hook of jaxtyping decorates every function and class of the package with."""

    def decorate(f: Any) -> Any:
        if isinstance(f, type) or _needs_jaxtyping(f):
            return with_shapes(f, typechecker=typechecker)
        quick = typechecker(f)

        @wraps(f)
        def call(*args: Any, **kwargs: Any) -> Any:
            if jaxtyping.config.jaxtyping_disable:
                return f(*args, **kwargs)
            return quick(*args, **kwargs)

        return call

    return decorate


def _needs_jaxtyping(f: Any) -> bool:
    """Whether annotations have shapes, or names that have no meaning yet, which jaxtyping leaves unchecked."""
    try:
        hints = get_type_hints(f, include_extras=True)
    except NameError:
        return True
    return any("jaxtyping" in str(hint) for hint in hints.values())


jaxtyping.jaxtyped = checked
