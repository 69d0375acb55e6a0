"""Limits of the operating system on a process, where it has them: a backstop behind the parent's clock."""

_LARGEST_FILE = 16 * 2**20


def enter(seconds: float, memory: int) -> None:
    """From now on for this process: memory, processor time, size of files, open files, number of processes."""
    try:
        import resource
    except ImportError:
        return
    for name, value in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_CPU", int(seconds * 10) + 10),
        ("RLIMIT_FSIZE", _LARGEST_FILE),
        ("RLIMIT_NOFILE", 256),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_NPROC", 0),
    ):
        try:
            which = getattr(resource, name)
            _, hard = resource.getrlimit(which)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        except (AttributeError, OSError, ValueError):
            continue  # this system has no such limit
