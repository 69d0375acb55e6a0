"""The text of an answer as it grows: whole characters only, up to the first stop string."""

from collections.abc import Sequence

from ..models.text import TextStream


class StoppedText:
    """What may be shown of tokens that come one at a time.

    Text is held back while its end could begin a stop string, so that nothing of one is ever shown. Of two stop strings
    the one that is complete first counts, however the text is cut into tokens.

    Args:
        stream: makes text of tokens.
        stops: the strings; the text ends before them.

    Attributes:
        length: characters that tokens have completed, those held back included.
        shown: characters that were given out.
        stopped: whether a stop string has come.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str] = ()):
        self._stream, self._stops = stream, stops
        self._held = ""
        self.length = self.shown = 0
        self.stopped = False

    def feed(self, id: int) -> str:
        """What can be shown after this token; often nothing."""
        return self._grow(self._stream.feed(id), last=False)

    def finish(self) -> str:
        """What is left to show, when no token follows."""
        return self._grow(self._stream.finish(), last=True)

    def _grow(self, text: str, last: bool) -> str:
        if self.stopped:
            return ""
        self.length += len(text)
        self._held += text
        begin = self._first_stop()
        if begin is not None:
            self.stopped = True
            shown, self._held = self._held[:begin], ""
        else:
            keep = 0 if last else max((_overlap(self._held, stop) for stop in self._stops), default=0)
            end = len(self._held) - keep
            shown, self._held = self._held[:end], self._held[end:]
        self.shown += len(shown)
        return shown

    def _first_stop(self) -> int | None:
        """Where the stop string begins that ends first; of several that end there, the longest."""
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """The longest end of the text that is a beginning of the stop string, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
