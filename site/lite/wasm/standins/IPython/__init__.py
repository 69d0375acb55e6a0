"""What IPython is to notebooks that run without it, and to Matplotlib, which asks for its version."""

version_info = (9, 12)


def get_ipython() -> None:
    """There is no shell."""
