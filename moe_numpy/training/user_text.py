"""The user's own text: files and folders, each a domain."""

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..files import read_regular
from .built_in_text import default_corpus
from .corpus import Corpus, CorpusError, LeftOut, bytes_needed
from .encoding import Encode, domain_of
from .pictures import Pictures

BUILT_IN = "built-in"


def load_corpus(
    paths: Sequence[str | os.PathLike[str]],
    context: int,
    encode: Encode | None = None,
    pictures: Pictures | None = None,
) -> Corpus:
    """The given files and folders, or the built-in text if there are none; each domain fills a window of ``context``.

    Args:
        paths: files and folders; ``built-in`` among them stands for the built-in text.
        context: of the windows.
        encode: makes tokens of a text; by default they are its bytes.
        pictures: beside the text.

    Raises:
        ValueError: a domain is too short (CorpusError for the user's own).
    """
    least = bytes_needed(context) if encode is None else 1  # how many tokens that is shows when they are encoded
    own = [path for path in paths if path != BUILT_IN]
    corpus = text_corpus(own, min_bytes=least, encode=encode) if own else default_corpus(encode)
    if own and len(own) < len(paths):
        corpus = Corpus([*default_corpus(encode).domains, *corpus.domains])
    corpus.validation_windows(context, limit=1)  # refuses a domain that cannot fill one
    return corpus if pictures is None else Corpus(corpus.domains, pictures)


def text_corpus(paths: Sequence[str | os.PathLike[str]], *, min_bytes: int, encode: Encode | None = None) -> Corpus:
    """The user's own text: each file or folder is one domain, named after it.

    Folders are read recursively in sorted order, without hidden files and folders, links to folders, and files that
    are not UTF-8 text or contain NUL; see ``Domain.left_out``.

    Args:
        paths: files and folders, none inside another.
        min_bytes: the least that each must hold.
        encode: makes tokens of a text; by default they are its bytes.

    Raises:
        CorpusError: paths that do not exist, cannot be read, are empty, not text, too short or overlap; the
            message lists all of them.
    """
    texts = read_texts(paths, min_bytes=min_bytes, use="train on")
    return Corpus(domain_of(text.name, text.content, encode, text.files, text.left_out) for text in texts)


class Text(NamedTuple):
    """The whole text of a file or folder; see :class:`Domain` for the rest."""

    name: str
    content: bytes
    files: int
    left_out: tuple[LeftOut, ...]


def read_texts(paths: Sequence[str | os.PathLike[str]], *, min_bytes: int, use: str) -> list[Text]:
    """Files and folders, as :func:`text_corpus` reads them, without holding anything out.

    Args:
        paths: files and folders, none inside another.
        min_bytes: the least that each must hold.
        use: what cannot be done with a wrong text, for the error.

    Raises:
        CorpusError: as :func:`text_corpus`.
    """
    roots = [Path(path) for path in paths]
    problems = [] if roots else ["no path was given"]
    problems += ["'': an empty path" for path in paths if not os.fspath(path)]
    for a, b in itertools.combinations(roots, 2):
        if _resolved(a).is_relative_to(_resolved(b)) or _resolved(b).is_relative_to(_resolved(a)):
            problems.append(f"{a} and {b} overlap: text of one would be text of the other too")
    texts: dict[str, Text] = {}
    for root in roots:
        try:
            text, files, left_out = _read_folder(root) if root.is_dir() else (_read_file(root), 1, ())
            if len(text) < min_bytes:
                raise CorpusError(f"{root}: has {len(text)} bytes of text, {min_bytes} are needed")
        except FileNotFoundError as error:
            problems.append(f"{error.filename}: does not exist")
        except OSError as error:
            problems.append(f"{error.filename or root}: cannot be read ({error.strerror or error})")
        except CorpusError as error:
            problems.append(str(error))
        else:
            name = _name(root, texts)
            texts[name] = Text(name, text, files, left_out)
    if problems:
        raise CorpusError(f"cannot {use} this text: {'; '.join(problems)}")
    return list(texts.values())


def _read_file(file: Path) -> bytes:
    text = read_regular(file)
    if not text:
        raise CorpusError(f"{file}: is empty")
    if _why_no_text(text):
        raise CorpusError(f"{file}: is not text (UTF-8 without NUL)")
    return text


def _read_folder(root: Path) -> tuple[bytes, int, tuple[LeftOut, ...]]:
    texts = []
    left_out = []
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            if name.startswith(".") or os.path.islink(path):
                reason = "a hidden folder" if name.startswith(".") else "a link to a folder"
                left_out.append(LeftOut(path, reason, is_folder=True))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names)):
            if file.name.startswith("."):
                left_out.append(LeftOut(str(file), "hidden"))
            elif not file.is_file():  # reading a pipe or a device could last for ever
                left_out.append(LeftOut(str(file), "not a regular file"))
            else:
                text = read_regular(file)
                fault = _why_no_text(text)
                if fault:
                    left_out.append(LeftOut(str(file), fault, len(text)))
                else:
                    texts.append(text)
    if not texts:
        files = [each for each in left_out if not each.is_folder]
        raise CorpusError(f"{root}: holds no text file ({len(files)} skipped)")
    return b"\n".join(texts), len(texts), tuple(left_out)


def _raise(error: OSError) -> NoReturn:
    raise error


def _why_no_text(data: bytes) -> str | None:
    if b"\0" in data:
        return "holds NUL"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    return None


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, also of a link to itself


def _name(root: Path, taken: Iterable[str]) -> str:
    """The path's last part without suffix; a number makes it unique."""
    resolved = _resolved(root)
    name = (resolved.name if root.is_dir() else resolved.stem) or str(resolved)
    numbered = (f"{name}-{n}" for n in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in taken)
