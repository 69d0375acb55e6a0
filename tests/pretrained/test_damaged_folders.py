"""Damaged folders: an error of one line that names a file, or exactly the tensors that were written.

The format has no checksum. What still is a whole, valid file after the damage may differ in a name, a type or a shape,
which a model compares with its own; never in values alone.
"""

import json
import random
import shutil

import pytest
from folders import contents, header_of, put, sharded, single

from moe_numpy.pretrained import PretrainedError

CASES = 1000


def some_file(random, folder):
    return random.choice(sorted(path for path in folder.iterdir() if path.is_file()))


def shard(random, folder):
    return random.choice(sorted(folder.glob("*.safetensors")))


def in_header(random, path):
    """A position in the length or the header; anywhere in an index."""
    content = path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little") if path.suffix == ".safetensors" else len(content)
    return bytearray(content), random.randrange(length)


def flip_bit(random, folder):
    path = some_file(random, folder)
    content, at = in_header(random, path)
    content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)


def change_byte(random, folder):
    path = some_file(random, folder)
    content, at = in_header(random, path)
    content[at] = random.randrange(256)
    path.write_bytes(content)


def swap_characters(random, folder):
    path = some_file(random, folder)
    content, at = in_header(random, path)
    other = in_header(random, path)[1]
    content[at], content[other] = content[other], content[at]
    path.write_bytes(content)


def truncate(random, folder):
    path = some_file(random, folder)
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])


def insert_or_cut(random, folder):
    path = some_file(random, folder)
    content, at = in_header(random, path)
    content[at : at + random.randrange(3)] = random.randbytes(random.randrange(1, 20))
    path.write_bytes(content)


def append(random, folder):
    path = some_file(random, folder)
    path.write_bytes(path.read_bytes() + random.randbytes(random.randrange(1, 9)))


def remove(random, folder):
    some_file(random, folder).unlink()


def exchange_files(random, folder):
    one, other = some_file(random, folder), some_file(random, folder)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def edit_entry(random, folder):
    path = shard(random, folder)
    header, values = header_of(path)
    name = random.choice([name for name in header if name != "__metadata__"])
    odd = [None, -1, 0, 3, 2**40, 2**63, 10**30, 1.5, "", "F32", "BF16", "F4", [], [0, 4], [2**62, 2**62], {}, True]
    key = random.choice(["dtype", "shape", "data_offsets", "extra", None])
    if key is None:
        header[name] = random.choice(odd)
    elif random.random() < 0.2:
        header[name].pop(key, None)
    elif isinstance(header[name].get(key), list) and header[name][key] and random.random() < 0.6:
        header[name][key][random.randrange(len(header[name][key]))] = random.choice(odd)
    else:
        header[name][key] = random.choice(odd)
    put(path, header, values)


def edit_names(random, folder):
    path = shard(random, folder)
    header, values = header_of(path)
    name = random.choice(list(header))
    match random.randrange(3):
        case 0:
            header.pop(name)
        case 1:
            header[random.choice(["", "x", "__metadata__", "model.half"])] = header.pop(name)
        case 2:
            header["x"] = header[name]
    put(path, header, values)


def edit_index(random, folder):
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        return flip_bit(random, folder)
    index = json.loads(path.read_bytes())
    names = list(index["weight_map"])
    odd = [
        "../x.safetensors",
        "/etc/passwd",
        "",
        ".",
        "model.bin",
        "x\0.safetensors",
        "model-00001-of-00009.safetensors",
    ]
    match random.randrange(5):
        case 0:
            index["weight_map"].pop(random.choice(names))
        case 1:
            index["weight_map"][random.choice(names)] = random.choice(odd + [index["weight_map"][n] for n in names])
        case 2:
            index["weight_map"]["x"] = random.choice(odd + list(index["weight_map"].values()))
        case 3:
            index["weight_map"] = random.choice([{}, None, [], "x", {"x": 1}])
        case 4:
            index.pop(random.choice(list(index)))
    path.write_text(json.dumps(index))


def double_a_name(random, folder):
    path = some_file(random, folder)
    content = path.read_bytes()
    if path.suffix == ".json":
        path.write_bytes(content.replace(b'"weight_map": {', b'"weight_map": {"model.half": "x.safetensors", '))
    else:
        header, values = header_of(path)
        name, entry = random.choice(list(header.items()))
        text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}"
        put(path, text.encode(), values)


DAMAGE = [
    *[flip_bit, change_byte, swap_characters, truncate, insert_or_cut, append, remove, exchange_files],
    *[edit_entry, edit_names, edit_index, double_a_name],
]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    base = tmp_path_factory.mktemp("intact")
    return [single(base / "single"), sharded(base / "sharded")]


@pytest.mark.parametrize("part", range(10))
def test_a_damaged_folder_is_refused_or_intact(intact, tmp_path, part):
    originals = [contents(folder) for folder in intact]
    refused = 0
    for seed in range(part * CASES // 10, (part + 1) * CASES // 10):
        rng = random.Random(seed)
        which = rng.randrange(2)
        folder = shutil.copytree(intact[which], tmp_path / "model")
        damage = []
        while len(damage) < 2:  # what looks intact after the first damage gets a second
            damage.append(rng.choice(DAMAGE))
            damage[-1](rng, folder)
            try:
                got = contents(folder)
            except PretrainedError as error:
                message = str(error)
                assert str(folder) in message, (seed, damage, message)
                assert message.isprintable(), (seed, damage, message)
                assert len(message) < 1000, (seed, damage, message)
                refused += 1
                break
            declared = {name: entry[:2] for name, entry in got.items()}
            if declared == {name: entry[:2] for name, entry in originals[which].items()}:
                assert got == originals[which], (seed, damage)
        shutil.rmtree(folder)
    assert refused > 0.9 * CASES / 10
