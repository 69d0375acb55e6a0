"""The user's own text: files and folders, each a domain."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from .built_in_text import default_corpus
from .corpus import Corpus, CorpusError, Domain, bytes_needed, hold_out


def load_corpus(paths: Sequence[str | os.PathLike[str]], context: int) -> Corpus:
    """The given files and folders, or the built-in text if there are none; each domain fills a window of ``context``.

    Raises:
        ValueError: a domain is too short (CorpusError for the user's own).
    """
    corpus = text_corpus(paths, min_bytes=bytes_needed(context)) if paths else default_corpus()
    corpus.validation_windows(context, limit=1)  # refuses a domain that cannot fill one
    return corpus


def text_corpus(paths: Sequence[str | os.PathLike[str]], *, min_bytes: int) -> Corpus:
    """The user's own text: each file or folder is one domain, named after it.

    Folders are read recursively in sorted order, without hidden files and folders, links to folders, and files that
    are not UTF-8 text or contain NUL; see ``Domain.skipped``.

    Args:
        paths: files and folders, none inside another.
        min_bytes: the least that each must hold.

    Raises:
        CorpusError: paths that do not exist, cannot be read, are empty, not text, too short or overlap; the
            message lists all of them.
    """
    roots = [Path(path) for path in paths]
    problems = [] if roots else ["no path was given"]
    for a, b in itertools.combinations(roots, 2):
        if a.resolve().is_relative_to(b.resolve()) or b.resolve().is_relative_to(a.resolve()):
            problems.append(f"{a} and {b} overlap: validation text of one would be training text of the other")
    domains: dict[str, Domain] = {}
    for root in roots:
        try:
            text, skipped = _read_folder(root) if root.is_dir() else (_read_file(root), 0)
            if len(text) < min_bytes:
                raise CorpusError(f"{root}: has {len(text)} bytes of text, {min_bytes} are needed")
        except FileNotFoundError as error:
            problems.append(f"{error.filename}: does not exist")
        except OSError as error:
            problems.append(f"{error.filename or root}: cannot be read ({error.strerror or error})")
        except CorpusError as error:
            problems.append(str(error))
        else:
            name = _name(root, domains)
            domains[name] = Domain(name, *hold_out(text), skipped)
    if problems:
        raise CorpusError("cannot train on this text:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Corpus(domains.values())


def _read_file(file: Path) -> bytes:
    text = file.read_bytes()
    if not text:
        raise CorpusError(f"{file}: is empty")
    if not _is_text(text):
        raise CorpusError(f"{file}: is not text (UTF-8 without NUL)")
    return text


def _read_folder(root: Path) -> tuple[bytes, int]:
    texts = []
    skipped = 0
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names)):
            # is_file: reading a pipe or a device could block for ever
            text = file.read_bytes() if file.is_file() and not file.name.startswith(".") else None
            if text is not None and _is_text(text):
                texts.append(text)
            else:
                skipped += 1
    if not texts:
        raise CorpusError(f"{root}: holds no text file ({skipped} skipped)")
    return b"\n".join(texts), skipped


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def _name(root: Path, taken: Iterable[str]) -> str:
    """The path's last part without suffix; a number makes it unique."""
    resolved = root.resolve()
    name = (resolved.name if root.is_dir() else resolved.stem) or str(resolved)
    numbered = (f"{name}-{n}" for n in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
