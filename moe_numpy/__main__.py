"""The command line: ``python -m moe_numpy COMMAND``."""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from . import __version__
from .commands.ask import ask
from .commands.bench import bench
from .commands.convert import convert
from .commands.count import count
from .commands.course import course
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.experts import app as experts
from .commands.generate import generate
from .commands.gradcheck import gradcheck
from .commands.inspect import inspect
from .commands.ledger import ledger
from .commands.plan import plan
from .commands.quantize import quantize
from .commands.recipes import recipes
from .commands.serve import serve
from .commands.specialists import specialists
from .commands.train import train
from .commands.upcycle import upcycle
from .commands.usage import Group, exit_on_signals
from .training.versions import versions

app = typer.Typer(
    name="python -m moe_numpy",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_versions(wanted: bool) -> bool:
    if wanted:
        rest = ", ".join(f"{name} {number}" for name, number in versions().items() if name != "moe_numpy")
        typer.echo(f"moe_numpy {__version__} ({rest})")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    """Mixture of Experts from scratch in NumPy. Start with: python -m moe_numpy demo"""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may write characters that the terminal lacks


for command in (demo, train, generate, serve, inspect, convert, quantize, gradcheck, recipes, count, plan, ledger):
    app.command()(command)
app.command()(upcycle)
# The folder benchmarks/ parses the arguments of bench, --help included.
app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})(bench)
app.command()(doctor)
app.add_typer(experts, name="experts")
app.command()(ask)
app.command()(specialists)
app.command()(course)


def run() -> None:
    """The command ``moe-numpy``, which is the same as ``python -m moe_numpy``."""
    exit_on_signals()
    app(prog_name="moe-numpy")


if __name__ == "__main__":
    exit_on_signals()
    app(prog_name="python -m moe_numpy")
