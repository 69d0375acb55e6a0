"""Reading and continuing texts: a decoder without a tape."""

from .decoder import Decoder
from .sequence import Sequence

__all__ = ["Decoder", "Sequence"]
