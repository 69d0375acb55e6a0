"""Reading and continuing texts: a decoder without a tape."""

from .decoder import Decoder
from .sequence import Sequence
from .writing import Guesses, write

__all__ = ["Decoder", "Guesses", "Sequence", "write"]
