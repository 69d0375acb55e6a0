"""A model behind OpenAI's interface: the engine, which writes many texts at the same time, and the HTTP server.

The engine needs no other packages than the decoder; the server needs those of ``requirements-serve.txt``.
"""

from .answers import Ask, Piece
from .engine import Engine, Refused, Stopped
from .sampling import Sampling
from .served import Served

__all__ = ["Ask", "Engine", "Piece", "Refused", "Sampling", "Served", "Stopped"]
