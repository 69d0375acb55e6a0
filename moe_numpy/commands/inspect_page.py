"""Part of ``inspect``: the microscope's page as a file."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..files import write_atomically
from ..inference import Decoder
from ..serve import Served
from ..serve.page import saved_page
from ..serve.routed import described, read_text
from .inspected import Inspected

_TOKENS = 1024  # of each domain: a page that loads at once


class InspectPage:
    """The sentence and the first windows of each domain, token by token.

    Args:
        path: of the page.
        opened: what is shown.

    Raises:
        ValueError: the file cannot be written, or what the model makes of a token depends on others beside it.
    """

    def __init__(self, path: Path, opened: Inspected):
        if path.is_dir() or not path.parent.is_dir():
            reason = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise ValueError(f"--html: {path} cannot be written: {reason}")
        self._path = path
        self._served = Served(opened.folder.resolve().name, Decoder(opened.model), opened.tokenizer)
        self._texts = [("the sentence", opened.sentence), *_windows(opened)]

    @property
    def num_tokens(self) -> int:
        """Of all texts."""
        return sum(len(ids) for _, ids in self._texts)

    def write(self, done: Callable[[int], object]) -> None:
        """Read the texts, telling how many tokens are done, and write the page. OSError if that fails."""
        texts, num_read = [], 0
        for name, ids in self._texts:
            texts.append({"name": name} | read_text(self._served, ids))
            num_read += len(ids)
            done(num_read)
        write_atomically({self._path: saved_page({"model": described(self._served), "texts": texts})})


def _windows(opened: Inspected) -> Iterator[tuple[str, Sequence[int]]]:
    for number, name in enumerate(opened.domains):
        windows = [window.ids for window in opened.windows if window.domain == number]
        left = _TOKENS
        for n, ids in enumerate(windows, 1):
            if len(ids) > left:
                break
            left -= len(ids)
            yield f"{name} {n}", [int(id) for id in ids]
