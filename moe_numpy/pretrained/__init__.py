"""Published models: their files, as published."""

from .errors import PretrainedError
from .loading import from_pretrained
from .safetensors_file import StoredTensor
from .saving import published_gradients, save_pretrained
from .tensor_files import TensorFiles
from .tensor_writing import write_tensor_files

__all__ = [
    "PretrainedError",
    "StoredTensor",
    "TensorFiles",
    "from_pretrained",
    "published_gradients",
    "save_pretrained",
    "write_tensor_files",
]
