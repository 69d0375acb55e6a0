"""Imports point one way: from a room to rooms before it. Nothing but the heart of the engine is a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import moe_numpy

PACKAGE = Path(moe_numpy.__file__).parent
ROOMS = [
    "typing",
    "blocks",
    "files",
    "kernels",
    "formats",
    "devices",
    "autodiff",
    "ops",
    "parallel",
    "nn",
    "gradcheck",
    "moe",
    "models",
    "inference",
    "pretrained",
    "instruments",
    "training",
    "accounting",
    "gradcheck.cases",
    "plots",
    "orchestration",
    "serve",
    "commands",
]
CIRCLE = {"moe_numpy.autodiff.tensor", "moe_numpy.autodiff.function", "moe_numpy.autodiff.graph"}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module):
    """The modules of the package that a module imports, in functions too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                found = submodule if submodule in MODULES else source
                if found in MODULES and found != module:
                    yield found


def room(module):
    inside = module.removeprefix("moe_numpy.")
    return max((r for r in ROOMS if inside == r or inside.startswith(f"{r}.")), key=len, default=None)


def test_every_module_is_in_a_room():
    assert [m for m in MODULES if room(m) is None] == ["moe_numpy", "moe_numpy.__main__"]


@pytest.mark.parametrize("module", [m for m in MODULES if room(m)])
def test_no_import_points_up(module):
    own = ROOMS.index(room(module))
    up = sorted(m for m in set(imports_of(module)) if room(m) is None or ROOMS.index(room(m)) > own)
    assert not up, f"{module} is in {room(module)} and imports {', '.join(up)}"


def test_no_circle_but_that_of_the_engine():
    graph = {m: {CIRCLE_NAME if i in CIRCLE else i for i in imports_of(m)} for m in MODULES if m not in CIRCLE}
    graph[CIRCLE_NAME] = {i for m in CIRCLE for i in imports_of(m)} - CIRCLE
    list(TopologicalSorter(graph).static_order())  # raises a CycleError that names the circle


CIRCLE_NAME = "moe_numpy.autodiff.tensor, function and graph"
