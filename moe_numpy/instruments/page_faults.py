"""How often a computation touches memory that the system has yet to supply."""

from collections.abc import Callable


def page_faults(run: Callable[[], object]) -> int | None:
    """Page faults of this process during ``run()`` that needed no disk; None on Windows, which does not count them."""
    try:
        import resource
    except ImportError:
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
