"""Published models: their files, as published."""

from .config import PublishedConfig, is_published
from .errors import PretrainedError
from .loading import from_pretrained
from .safetensors_file import StoredTensor
from .saving import published_gradients, save_pretrained
from .tensor_files import TensorFiles
from .tensor_writing import write_tensor_files
from .tokenizer import PublishedTokenizer

__all__ = [
    "PretrainedError",
    "PublishedConfig",
    "PublishedTokenizer",
    "StoredTensor",
    "TensorFiles",
    "from_pretrained",
    "is_published",
    "published_gradients",
    "save_pretrained",
    "write_tensor_files",
]
