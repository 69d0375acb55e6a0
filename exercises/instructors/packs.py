"""What other graders need: a zip for Gradescope, a workflow for GitHub Classroom."""

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import requires
from pathlib import Path

import exercises
import moe_numpy

from ..exercise import Exercise

_HERE = Path(__file__).parent
_LEFT_OUT = ("__pycache__", "work")
_WHEN = (2020, 1, 1, 0, 0, 0)  # so that the same files give the same zip
_EXECUTABLE, _PLAIN = 0o755, 0o644


def gradescope(chosen: Sequence[Exercise], seed: int) -> bytes:
    """A zip to upload as an autograder: the library, the exercises, ``setup.sh`` and ``run_autograder``."""
    written = io.BytesIO()
    settings = {"NUMBERS": " ".join(e.label for e in chosen), "SEED": str(seed)}
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("setup.sh", "run_autograder"):
            _add(archive, name, _filled(name, settings).encode(), _EXECUTABLE)
        _add(archive, "requirements.txt", ("\n".join(_requirements()) + "\n").encode())
        for package in (moe_numpy, exercises):
            root = Path(package.__file__ or "").parent
            for path in _files(root):
                _add(archive, (Path(root.name) / path.relative_to(root)).as_posix(), path.read_bytes())
    return written.getvalue()


def classroom(chosen: Sequence[Exercise], seed: int) -> bytes:
    """A workflow that grades with each push; an exercise has its points if all its checks pass."""
    steps = "".join(_filled("classroom_step.yml", _facts(e)) for e in chosen)
    results = "".join(f"\n          EX{e.label}_RESULTS: ${{{{ steps.ex{e.label}.outputs.result }}}}" for e in chosen)
    settings = {"SEED": str(seed), "STEPS": steps.rstrip("\n"), "RESULTS": results.lstrip("\n").lstrip()}
    settings["RUNNERS"] = ",".join(f"ex{e.label}" for e in chosen)
    return _filled("classroom.yml", settings).encode()


PACKS: Mapping[str, Callable[[Sequence[Exercise], int], bytes]] = {"gradescope": gradescope, "classroom": classroom}


def _facts(e: Exercise) -> dict[str, str]:
    return {"LABEL": e.label, "TITLE": e.title.replace("'", "''"), "POINTS": str(e.points)}


def _filled(name: str, settings: Mapping[str, str]) -> str:
    """A file of the folder ``files``, with each @NAME@ in it replaced."""
    text = (_HERE / "files" / name).read_text(encoding="utf-8")
    for key, value in settings.items():
        text = text.replace(f"@{key}@", value)
    return text


def _requirements() -> list[str]:
    """What the library needs, without the extras."""
    return [line for line in requires("moe_numpy") or [] if "extra ==" not in line]


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root).parts
        if path.is_file() and not any(part in _LEFT_OUT or part.startswith(".") for part in inside):
            yield path


def _add(archive: zipfile.ZipFile, name: str, content: bytes, mode: int = _PLAIN) -> None:
    entry = zipfile.ZipInfo(name, _WHEN)
    entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, mode << 16
    archive.writestr(entry, content)
