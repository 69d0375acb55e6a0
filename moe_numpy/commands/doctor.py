"""``python -m moe_numpy doctor``: what this machine offers, and what to change."""

from typing import Any

from rich.console import Console
from rich.text import Text

from .machine import examine
from .output import JsonOption, console_for, plain_table, print_json, print_title


def doctor(json: JsonOption = False) -> None:
    """Show the matrix library and its kernels, threads, compiled loops, the GPU, and what to change."""
    report = examine()
    if json:
        print_json(report)
        return
    _print(report, console_for(json))


def _print(report: dict[str, Any], console: Console) -> None:
    table = plain_table()
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _lines(report):
        table.add_row(Text(name, "dim"), Text(value))
    console.print(table)
    if report["advice"]:
        print_title(console, "To change")
        for line in report["advice"]:
            console.print(Text(f"  {line}"), soft_wrap=True)


def _lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("system", report["system"]),
        ("processor", f"{report['cpu']}, {report['cores']} cores{', AVX-512' * report['avx512']}"),
        ("Python", report["python"]),
        ("NumPy", report["numpy"]),
    ]
    for blas in report["blas"]:
        lines.append(
            (
                "BLAS",
                f"{blas['library']} {blas['version'] or ''}, {blas['kernels'] or 'unknown'} kernels, "
                f"{blas['threads']} threads",
            )
        )
    lines.append(("", f"{report['gflops_per_thread']:.0f} GFLOP/s per thread in float32"))
    compiled = {None: "", True: ", compiled on this machine", False: ", to be compiled on first use"}
    lines += [
        ("numba", (report["numba"] or "missing") + compiled[report["compiled_loops"]]),
        ("loops", report["kernels"]),
        ("CuPy", report["cupy"] or "missing"),
        *_gpu_lines(report["gpu"]),
        ("PyTorch", f"{report['torch'] or 'missing'} (for comparison only)"),
    ]
    return lines


def _gpu_lines(gpu: dict[str, Any]) -> list[tuple[str, str]]:
    if gpu["missing"]:
        return [("GPU", f"none: {gpu['missing']}")]
    speeds = [f"{speed:.0f} TFLOP/s in {name}" for name, speed in gpu["tflops"].items() if speed]
    without = [f"no {name}: ml_dtypes is missing" for name, speed in gpu["tflops"].items() if not speed]
    return [("GPU", f"{gpu['name']}, {gpu['memory_gib']:.0f} GiB"), ("", ", ".join(speeds + without))]
