"""``python -m moe_numpy bench``: runs the folder benchmarks/ of a checkout, which is not installed with the package."""

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from .output import refuse


def bench(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Measure forward and backward, decoding, or a server; results are compared with the peer's before timing."""
    root = Path(__file__).parents[2]
    if not (root / "benchmarks" / "__main__.py").is_file():
        refuse(f"bench needs the folder benchmarks/ of the source, and {root} has none; run it from a checkout")
    sys.path.insert(0, str(root))
    importlib.import_module("benchmarks.__main__").app(arguments or [], prog_name="python -m moe_numpy bench")
