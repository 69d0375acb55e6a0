"""Ways to damage the folder of a published model, and what must come of it.

Each way takes a random.Random and the folder, damages it, and returns what it did and the set of permitted outcomes:
REFUSED, an error of one line; SAME, the logits from before; OTHER, another model, where no reader could know that it is
not the one that was meant.
"""

import json
import math

from folders import header_of
from folders import put as put_as_it_is

REFUSED, SAME, OTHER = "refused", "same", "other"
INDEX = "model.safetensors.index.json"

# Settings that change no number, so that any value is as good as another.
_WITHOUT_EFFECT = """
    aux_loss_alpha boi_token_index capacity_factor cla_share_factor eod_token_id eoi_token_index
    first_last_k_dense_replace hidden_dropout image_token_index initial_context_length input_jitter_noise
    moe_capacity moe_drop_tokens moe_gate moe_jitter_eps moe_loss_weight moe_random_routing_dropped_token
    mtp_layer_types mtp_mlp_layer_types mtp_transformer_layers num_mtp_layers num_mtp_modules
    num_nextn_predict_layers qk_head_dim uniform_expert_assignment use_mixed_mlp_moe use_mtp
"""
# Settings of which no tensor knows: any value of their type and sign is another model.
_FREE = """
    alpha attention_chunk_size attention_factor attn_scale attn_temperature_tuning beta_fast beta_slow clip_qkv
    decoder_sparse_step experts_per_token factor first_k_dense_replace floor_scale high_freq_factor
    interleave_moe_layer_step intermediate_size intermediate_size_mlp layer_types long_factor long_mscale
    low_freq_factor max_position_embeddings max_seq_len max_window_layers mlp_only_layers moe_k moe_layer_end_index
    moe_layer_interval moe_layer_start_index moe_layers moe_norm_min moe_normalize_expert_weights moe_top_k moe_topk
    mscale mscale_all_dim n_group n_shared_experts no_rope_layer_interval no_rope_layers num_experts_per_tok
    original_max_position_embeddings partial_rotary_factor rope_theta rotary_dim router_jitter_noise short_factor
    short_mscale sliding_window swiglu_alpha swiglu_limit topk_group
"""
FREE = set(_FREE.split())
WRONG_TYPES = ["x", "", [], [None], {}, {"a": 1}, [[1]], "64"]
WRONG_NUMBERS = [-1, -(10**9), 10**30, -0.5, 1e300, 1e-300]
LARGE = [10**8, 10**9, 10**12]


def put(path, header, content):
    """The file with this header, the values aligned as before: unaligned ones are rounded otherwise when multiplied."""
    text = json.dumps(header).encode()
    put_as_it_is(path, text + b" " * (-len(text) % 8), content)


def entries(settings, family=None):
    """Every setting that counts, also those within parts: (the part it is in, its name)."""
    family = family or settings["model_type"]
    ignored = {"model_type", "vision_config", *_WITHOUT_EFFECT.split()}
    ignored |= {"ffn_hidden_size" in settings and "hidden_size", family == "gpt_oss" and "hidden_act"}
    if family.startswith("deepseek"):
        ignored.add("head_dim")  # another name of qk_rope_head_dim there
    if family != "phimoe":
        ignored.add("router_jitter_noise")  # of training
    if "alpha" in settings:
        ignored |= {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"}
    for name, value in settings.items():
        if name not in ignored:
            yield settings, name
            if isinstance(value, dict):
                yield from entries(value, family)


def edit(random, folder, change):
    """One setting changed by ``change(old)``, which returns the new value."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    part, name = random.choice(list(entries(settings)))
    old = part[name]
    part[name] = change(old)
    path.write_text(json.dumps(settings))
    return name, old, part[name]


def wrong_type(random, folder):
    def other(old):
        odd = [value for value in WRONG_TYPES if type(value) is not type(old)]
        if isinstance(old, bool):
            odd += [0, 1, 1.0]
        elif isinstance(old, int):
            odd += [float(old), True, old + 0.5]
        elif isinstance(old, float):
            odd += [False]
        return random.choice(odd)

    name, old, new = edit(random, folder, other)
    mild = old is None or new in ([], {}) or (name in ("attn_temperature_tuning", "moe_topk"))
    return (name, old, new), {REFUSED, SAME, OTHER} if mild or isinstance(old, list) else {REFUSED}


def wrong_number(random, folder):
    name, old, new = edit(random, folder, lambda old: random.choice(WRONG_NUMBERS) if _number(old) else -1)
    fits = (name in FREE and new in (10**30, 1e300)) or name == "moe_layer_end_index"
    return (name, old, new), {REFUSED, SAME, OTHER} if fits else {REFUSED}


def zero(random, folder):
    name, old, new = edit(random, folder, lambda old: 0 if isinstance(old, int) else 0.0)
    fits = name in FREE or old in (0, None) or name == "shared_intermediate_size"
    return (name, old, new), {REFUSED, SAME, OTHER} if fits else {REFUSED}


def large(random, folder):
    name, old, new = edit(random, folder, lambda old: random.choice(LARGE) if _number(old) else [10**9])
    return (name, old, new), {REFUSED, SAME, OTHER} if name in FREE else {REFUSED}


def off_by_one(random, folder):
    """A size that is nearly right. Some sizes are of no tensor alone."""
    name, old, new = edit(random, folder, lambda old: old + random.choice([-1, 1]) if _integer(old) else "y")
    fits = name in FREE or not _integer(old)
    return (name, old, new), {REFUSED, SAME, OTHER} if fits and new != "y" else {REFUSED}


def multiple(random, folder):
    """Sizes doubled or halved, so that everything still divides."""
    name, old, new = edit(random, folder, lambda old: random.choice([2 * old, old // 2]) if _integer(old) else "y")
    shares = name in FREE or name == "num_attention_heads"  # the same product of heads and width
    return (name, old, new), {REFUSED, SAME, OTHER} if shares else {REFUSED}


def without(random, folder):
    """A setting removed, or null: its default counts."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    part, name = random.choice(list(entries(settings)))
    if random.random() < 0.5:
        del part[name]
    else:
        part[name] = None
    path.write_text(json.dumps(settings))
    return name, {REFUSED, SAME, OTHER}


def unknown(random, folder):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    name = random.choice(["made_up", "moe_gate_scale", "hidden_size_per_head", "rope_thetta", "layer_scale", "mamba"])
    settings[name] = random.choice([0, 1, True, "x", [1], {"a": 1}, 0.5])
    path.write_text(json.dumps(settings))
    return name, {REFUSED}


def contradiction(random, folder):
    """The same setting in two dialects, with two values."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    text = settings.get("text_config", settings)
    text |= random.choice(
        [
            {"rope_theta": 123.0, "rope_parameters": {"rope_type": "default", "rope_theta": 456.0}},
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 4.0},
            },
            {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0, "beta_fast": "x"}},
            {"num_local_experts": 4, "num_experts": 5, "n_routed_experts": 6, "moe_num_experts": 7},
            {"quantization_config": {"quant_method": "awq"}},
            {"quantization_config": "fp8"},
            {"rope_scaling": {"rope_type": "ntk", "factor": 2.0}},
        ]
    )
    path.write_text(json.dumps(settings))
    return text, {REFUSED}


def family(random, folder):
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["model_type"] = random.choice(["gpt2", "granitemoehybrid", "Mixtral", "", None, 3, ["mixtral"], {}])
    path.write_text(json.dumps(settings))
    return settings["model_type"], {REFUSED}


def bit_of_header(random, folder):
    path = _shard(random, folder)
    content = bytearray(path.read_bytes())
    at = random.randrange(8 + int.from_bytes(content[:8], "little"))
    content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return path.name, at, {REFUSED, SAME}


def bit_of_settings(random, folder):
    path = random.choice([folder / "config.json", *folder.glob(INDEX)])
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content))
    content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return path.name, at, {REFUSED, SAME, OTHER} if path.name == "config.json" else {REFUSED, SAME}


def truncate(random, folder):
    path = _file(random, folder)
    path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)])
    return path.name, {REFUSED}


def missing(random, folder):
    path = _file(random, folder)
    path.unlink()
    return path.name, {REFUSED}


def rename(random, folder):
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    new = random.choice(
        [
            name + "x",
            "model." + name,
            name.replace("layers.0.", "layers.7.").replace("blocks.0.", "blocks.7."),
            name.replace("experts.0.", "experts.99."),
            name.replace(".weight", ".bias"),
            name + "_blocks",
            name + "_scales",
            name + "_scale_inv",
            name.upper(),
        ]
    )
    header = {new if other == name else other: entry for other, entry in header.items()}
    put(path, header, content)
    _in_index(folder, lambda places: places.update({new: places.pop(name)}))
    return (name, new), {SAME} if new == name else {REFUSED}


def exchange(random, folder):
    """Two tensors under each other's names: seen if their shapes differ, and of quantised ones their types."""
    path = _shard(random, folder)
    header, content = header_of(path)
    one, other = random.choice(_names(header)), random.choice(_names(header))
    alike, typed = (header[one][key] == header[other][key] for key in ("shape", "dtype"))
    header[one], header[other] = header[other], header[one]
    put(path, header, content)
    return (one, other), {SAME, OTHER} | (set() if typed else {REFUSED}) if alike else {REFUSED}


def drop(random, folder):
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    _replace(path, header, content, name, None)
    _in_index(folder, lambda places: places.pop(name))
    return name, {REFUSED}


def extra(random, folder):
    """One more tensor than the model has."""
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    ways = ["_scale_inv", "_blocks", "_scales", ".2", "_2", ".bias", ".lora_A.weight", ".input_scale"]
    new = random.choice(["model.extra", "lm_head.scale", *(name + end for end in ways)])
    begin, end = header[name]["data_offsets"]
    header[new] = {**header[name], "data_offsets": [len(content), len(content) + end - begin]}
    put(path, header, content + content[begin:end])
    _in_index(folder, lambda places: places.update({new: path.name}))
    return new, {REFUSED}


def reshape(random, folder):
    """The same values, declared in another shape: transposed, flat, with one more axis."""
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    shape = header[name]["shape"]
    size = math.prod(shape)
    new = random.choice([shape[::-1], [size], [1, *shape], [*shape, 1], [size // 2, 2], [2, size // 2]])
    header[name]["shape"] = new
    put(path, header, content)
    return (name, shape, new), {SAME} if new == shape else {REFUSED}


def resize(random, folder):
    """A tensor that has more or fewer values along one axis."""
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    shape, (begin, end) = list(header[name]["shape"]), header[name]["data_offsets"]
    axis = random.randrange(len(shape))
    itemsize = (end - begin) // math.prod(shape)
    shape[axis] = random.choice([shape[axis] + 1, 2 * shape[axis], max(1, shape[axis] - 1)]) + (shape[axis] == 1)
    needed = math.prod(shape) * itemsize
    values = (content[begin:end] * (needed // (end - begin) + 1))[:needed]
    _replace(path, header, content, name, {**header[name], "shape": shape}, values)
    return (name, shape), {REFUSED}


def retype(random, folder):
    """A tensor whose bits are called another type of the same size."""
    path = _shard(random, folder)
    header, content = header_of(path)
    name = random.choice(_names(header))
    same_size = {"F32": ["I32", "U32"], "BF16": ["F16", "I16", "U16"], "U8": ["I8", "F8_E8M0", "F8_E4M3", "BOOL"]}
    same_size |= {"I8": ["U8", "F8_E4M3", "BOOL"], "F8_E4M3": ["U8", "I8", "F8_E8M0", "F8_E5M2"]}
    old, header[name]["dtype"] = header[name]["dtype"], random.choice(same_size[header[name]["dtype"]])
    put(path, header, content)
    return (name, old, header[name]["dtype"]), {REFUSED}


SETTINGS = [wrong_type, wrong_number, zero, large, off_by_one, multiple, without, unknown, contradiction, family]
FILES = [bit_of_header, bit_of_settings, truncate, missing, rename, exchange, drop, extra, reshape, resize, retype]


def _number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _file(random, folder):
    return random.choice(sorted(folder.iterdir()))


def _shard(random, folder):
    return random.choice(sorted(folder.glob("*.safetensors")))


def _names(header):
    return [name for name in header if name != "__metadata__"]


def _in_index(folder, change):
    path = folder / INDEX
    if path.exists():
        index = json.loads(path.read_text())
        change(index["weight_map"])
        path.write_text(json.dumps(index))


def _replace(path, header, content, name, entry, values=b""):
    """Another entry and other values for one tensor, or none; the rest moves."""
    begin, end = header.pop(name)["data_offsets"]
    for other in _names(header):
        first, last = header[other]["data_offsets"]
        if first >= end:
            moved = len(values) - (end - begin)
            header[other]["data_offsets"] = [first + moved, last + moved]
    if entry is not None:
        header[name] = {**entry, "data_offsets": [begin, begin + len(values)]}
    put(path, header, content[:begin] + values + content[end:])
