"""numba for a child process: ``cache=True`` is allowed and does nothing, since the process's folder goes with it."""

from numba.core.dispatcher import Dispatcher

Dispatcher.enable_caching = lambda self: None  # type: ignore[method-assign]
