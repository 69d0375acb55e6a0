"""Run the notebooks and write their outputs and their small pictures for the README.

python notebooks/regenerate.py          all
python notebooks/regenerate.py 03 11    two of them
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode
from PIL import Image

from execution import HERE, execute
from rules import NAMES, PICTURES, images, noise

_WIDTH = 320  # pixels of a small picture


def main(numbers: list[str]) -> int:
    """Regenerate the notebooks with these numbers, or all. The exit code is 0 if all ran."""
    unknown = set(numbers) - {name[:2] for name in NAMES}
    if unknown:
        print(
            f"error: no notebook {', '.join(sorted(unknown))}; there are 00 to {NAMES[-1][:2]}",
            file=sys.stderr,
        )
        return 2
    bad = 0
    for name in NAMES:
        if numbers and name[:2] not in numbers:
            continue
        print(f"{name:30}", end="", flush=True)
        path = HERE / f"{name}.ipynb"
        if not path.exists():
            print("missing")
            bad += 1
            continue
        try:
            done = execute(path)
        except (CellExecutionError, CellTimeoutError) as error:
            print(f"failed; left as it was\n{error}")
            bad += 1
            continue
        for warning in noise(done.notebook):
            print(f"{warning}\n{name:30}", end="")
        text = nbformat.writes(done.notebook) + "\n"
        _write(path, text.encode())
        _write(PICTURES / f"{name[:2]}.png", small_picture(done.notebook))
        times = f"{done.seconds:5.1f} s {done.processor_seconds:5.1f} s of processors"
        print(f"{times} {done.peak_bytes / 2**20:6.0f} MiB {len(text) / 1024:6.0f} KiB")
    return min(bad, 1)


def small_picture(notebook: NotebookNode) -> bytes:
    """A PNG of the figure whose cell has the tag ``thumbnail``, else of the first one."""
    found = images(notebook)
    chosen = [image for cell, image in found if "thumbnail" in cell.metadata.get("tags", [])] or [
        found[0][1]
    ]
    picture = Image.open(io.BytesIO(base64.b64decode(chosen[0]["data"]["image/png"]))).convert(
        "RGB"
    )
    size = (_WIDTH, round(picture.height * _WIDTH / picture.width))
    png = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).quantize(64).save(png, "PNG", optimize=True)
    return png.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Old or new after a crash, never half; untouched if it is the same."""
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
