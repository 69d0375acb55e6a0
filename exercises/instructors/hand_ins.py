"""What students handed in: a folder or a zip for each, in which the files of exercises are looked for.

Nothing of it is trusted. Links are not followed, a zip is never unpacked under its own names, and of everything only as
much is read as a file of an exercise may have.
"""

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..exercise import Exercise
from ..submission import LARGEST

_PROGRESS = "progress.json"
_LARGEST_ZIP = 64 * 2**20
_MOST_FILES = 10_000
_DEEPEST = 6  # folders inside one another
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, ValueError, OSError)


@dataclass
class HandIn:
    """What one student handed in.

    Attributes:
        student: the name of the folder, or of the zip without its ending.
        files: by the numbers of exercises; what is missing was not handed in.
        folder: that holds the student's progress file, perhaps.
        notes: by the numbers of exercises, what an instructor should know.
        problem: why nothing could be read; empty if something could.
    """

    student: str
    files: dict[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    notes: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def hand_ins(folder: Path, exercises: Sequence[Exercise], scratch: Path) -> list[HandIn]:
    """All students' hand-ins, by name.

    Args:
        folder: one subfolder or zip for each student; other files and hidden ones are passed over.
        exercises: whose files to look for.
        scratch: an empty folder, for what comes out of zips.

    Raises:
        ValueError: the folder holds no subfolder and no zip, or a folder and a zip of one name.
    """
    found = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__")) and (p.is_dir() or _is_zip(p)))
    if not found:
        raise ValueError(f"{folder} has neither folders nor zips; there must be one for each student")
    names = [_student(p) for p in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"handed in twice, as a folder and as a zip: {', '.join(twice)}")
    return [read(p, exercises, scratch / str(i)) for i, p in enumerate(found)]


def _student(path: Path) -> str:
    return path.stem if _is_zip(path) else path.name


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and not path.is_dir()


def read(path: Path, exercises: Sequence[Exercise], scratch: Path) -> HandIn:
    """What is in a folder, or in a zip, which is copied to ``scratch``."""
    hand_in = HandIn(_student(path))
    wanted = {e.file_name: e.label for e in exercises}
    try:
        if path.is_symlink():
            raise ValueError("is a link")
        if _is_zip(path):
            scratch.mkdir()
            places = list(_out_of_zip(path, {*wanted, _PROGRESS}, scratch))
        else:
            places = list(_in_folder(path, {*wanted, _PROGRESS}))
    except _BROKEN as error:
        hand_in.problem = f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}"
        return hand_in
    graded: dict[str, PurePosixPath] = {}
    for place, file in sorted(places, key=lambda found: _first(found[0])):
        if place.name == _PROGRESS:
            hand_in.folder = hand_in.folder or file.parent
        elif (label := wanted[place.name]) in graded:
            hand_in.notes[label] = f"handed in more than once; {graded[label]} was graded"
        else:
            graded[label], hand_in.files[label] = place, file
    return hand_in


def _in_folder(folder: Path, names: set[str]) -> Iterator[tuple[PurePosixPath, Path]]:
    """The place of each such file inside the folder, and its path."""
    seen = 0
    for root, folders, files in os.walk(folder, onerror=_raise):
        inside = Path(root).relative_to(folder)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")) and len(inside.parts) < _DEEPEST)
        seen += len(files)
        if seen > _MOST_FILES:
            raise ValueError(f"more than {_MOST_FILES:,} files")
        for name in names.intersection(files):
            path = Path(root, name)
            if not path.is_symlink():
                yield PurePosixPath(inside, name), path


def _out_of_zip(path: Path, names: set[str], scratch: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """The same of a zip. Of several files with one name only the first is copied: ten thousand would fill the disk."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could last for ever
        raise ValueError("is not a regular file")
    if status.st_size > _LARGEST_ZIP:
        raise ValueError(f"more than {_LARGEST_ZIP // 2**20} MiB")
    with zipfile.ZipFile(path) as archive:
        entries = [(PurePosixPath(e.filename.replace("\\", "/")), e) for e in archive.infolist()]
        if len(entries) > _MOST_FILES:
            raise ValueError(f"more than {_MOST_FILES:,} files")
        for place, entry in sorted(entries, key=lambda found: _first(found[0])):
            hidden = any(part.startswith((".", "__")) for part in place.parts[:-1])
            if place.name not in names or hidden or entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                continue
            target = scratch / place.name
            if not target.exists():
                with archive.open(entry) as source:
                    target.write_bytes(source.read(LARGEST + 1))
            yield place, target


def _first(place: PurePosixPath) -> tuple[int, str]:
    """The order in which files of one name count: the least deep first."""
    return len(place.parts), str(place)


def _raise(error: OSError) -> None:
    raise error
