"""Published models: their files, as published."""

from .errors import PretrainedError
from .safetensors_file import StoredTensor
from .tensor_files import TensorFiles
from .tensor_writing import write_tensor_files

__all__ = ["PretrainedError", "StoredTensor", "TensorFiles", "write_tensor_files"]
