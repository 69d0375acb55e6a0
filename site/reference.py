"""Pages of reference: one for each package of the library, made of its modules' docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {"commands"}  # docs/commands.md tells what they do
# The compiled loops cannot be imported where numba and CuPy are missing; what they compute stands at the definitions.
COMPILED = {
    "atomics.py", "crew.py", "cublas.py", "decoders.py", "grouped_gemm.py", "loops.py", "on_cupy.py", "on_numba.py",
    "product_loops.py", "program_loops.py", "row_products.py", "vectors.py",
}  # fmt: skip


def packages(package: Path) -> list[str]:
    """The packages that have a page."""
    return sorted(
        folder.name
        for folder in package.iterdir()
        if (folder / "__init__.py").is_file() and folder.name not in LEFT_OUT
    )


def write_pages(package: Path, folder: Path) -> list[str]:
    """Write the pages, and an overview ``index.rst``. Their names come back."""
    folder.mkdir(parents=True, exist_ok=True)
    names = packages(package)
    rows = []
    for name in names:
        text = "\n".join(_page(package, name))
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")
        rows.append(f":doc:`moe_numpy.{name} <{name}>`\n   {_summary(package / name / '__init__.py')}\n")
    (folder / "index.rst").write_text("\n".join([*_title("API reference", "="), *rows]), encoding="utf-8")
    return names


def _page(package: Path, name: str) -> Iterator[str]:
    yield from _title(f"moe_numpy.{name}", "=")
    for path in sorted((package / name).rglob("*.py")):
        if name == "kernels" and path.name in COMPILED:
            continue
        parts = path.relative_to(package.parent).with_suffix("").parts
        top = path == package / name / "__init__.py"
        module = ".".join(parts[:-1] if path.name == "__init__.py" else parts)
        if not top:
            yield from _title(module, "-")
        yield f".. automodule:: {module}"
        if path.name != "__init__.py":  # what a package's __init__ lists stands below the module that defines it
            yield "   :members:"
            yield "   :show-inheritance:"
        yield ""


def _title(words: str, line: str) -> list[str]:
    return [words, line * len(words), ""]


def _summary(path: Path) -> str:
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return told.partition("\n\n")[0].replace("\n", " ").replace("*", r"\*").replace("|", r"\|")
