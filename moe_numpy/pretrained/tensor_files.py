"""The tensors of a published folder by name, from one safetensors file or from shards with an index.

    model.safetensors                         all tensors
    model.safetensors.index.json              {"weight_map": {"name": "model-00001-of-00002.safetensors", ...}}
    model-00001-of-00002.safetensors ...      the shards

Every tensor that a file or the index names is checked before the first is used. The format has no checksum: a value
that changed on the disk, or a tensor renamed with its file whole, cannot be seen here.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from .errors import PretrainedError, quoted
from .published_files import read_json
from .safetensors_file import StoredTensor, map_tensors

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SUFFIX = ".safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class _Index(msgspec.Struct, frozen=True):
    """Of model.safetensors.index.json, what counts. ``metadata`` varies, and is often wrong."""

    weight_map: dict[str, str]


class TensorFiles(Mapping[str, StoredTensor]):
    """All tensors of a folder, mapped and not copied: ``TensorFiles.open(folder)[name].float32()``."""

    def __init__(self, folder: Path, tensors: Mapping[str, StoredTensor]):
        self.folder = folder
        self._tensors = tensors

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "TensorFiles":
        """The tensors of a folder, or of one safetensors file.

        In a folder it is the index that counts, then ``model.safetensors``, then the only safetensors file there is.

        Raises:
            PretrainedError: there is none, several could be meant, or one is missing, damaged or not what the index
                says.
        """
        folder = Path(folder)
        if not folder.is_dir() and folder.suffix == SUFFIX:
            return cls(folder.parent, {tensor.name: tensor for tensor in map_tensors(folder)})
        names = _names_in(folder)
        if INDEX in names:
            return cls(folder, _from_shards(folder, names))
        return cls(folder, {tensor.name: tensor for tensor in map_tensors(folder / _only_file(folder, names))})

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"TensorFiles({str(self.folder)!r}, {len(self)} tensors)"


def _names_in(folder: Path) -> set[str]:
    """The names in a folder, of broken links too."""
    if folder.suffix in _PICKLES and folder.is_file():
        raise PretrainedError(_no_pickles(folder))
    try:
        return set(os.listdir(folder))
    except FileNotFoundError as error:
        raise PretrainedError(f"{folder} does not exist") from error
    except NotADirectoryError as error:
        raise PretrainedError(f"{folder} is not a folder with a published model, nor a {SUFFIX} file") from error
    except OSError as error:
        raise PretrainedError(f"{folder} cannot be read: {error.strerror or error}") from error


def _only_file(folder: Path, names: set[str]) -> str:
    """The safetensors file of a folder without an index."""
    if SINGLE in names:
        return SINGLE
    found = sorted(name for name in names if name.endswith(SUFFIX))
    if len(found) == 1:
        return found[0]
    if found:
        raise PretrainedError(
            f"{folder} holds {len(found)} {SUFFIX} files, among them {quoted(found[0])}, but neither {SINGLE} nor the "
            f"index of its shards, {INDEX}"
        )
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if pickles:
        raise PretrainedError(_no_pickles(folder / pickles[0]))
    raise PretrainedError(f"{folder} holds no {SUFFIX} file: expected {SINGLE}, or {INDEX} and its shards")


def _no_pickles(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run any code when it is loaded, so it is never read here: use the model's "
        f"{SUFFIX} files, or convert it with transformers' save_pretrained on a machine where that does no harm"
    )


def _from_shards(folder: Path, names: set[str]) -> dict[str, StoredTensor]:
    """The tensors of all shards, which are exactly those that the index names, each in the shard it names."""
    index = folder / INDEX
    weight_map = read_json(index, _Index).weight_map
    shards = list(dict.fromkeys(weight_map.values()))
    if not shards:
        raise PretrainedError(f"{index} names no tensor")
    for shard in shards:
        if not shard.endswith(SUFFIX) or any(c in "/\\:\0" for c in shard):
            raise PretrainedError(f"{index} names the shard {quoted(shard)}: expected a {SUFFIX} file in its folder")
        if shard not in names:
            raise PretrainedError(f"{folder / shard} is missing: {INDEX} names it")
    if SINGLE in names and SINGLE not in shards:
        raise PretrainedError(f"{folder} holds both {SINGLE} and {INDEX}, which does not name it: delete the wrong one")
    tensors = {}
    for shard in shards:
        for tensor in map_tensors(folder / shard):
            place = weight_map.get(tensor.name)
            if place != shard:
                fault = f"which {INDEX} places in {quoted(place)}" if place else f"which {INDEX} does not name"
                raise PretrainedError(f"{tensor.file} holds tensor {quoted(tensor.name)}, {fault}")
            tensors[tensor.name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise PretrainedError(f"{folder / shard} lacks tensor {quoted(name)}, which {INDEX} places there")
    return tensors
