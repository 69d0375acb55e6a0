"""Small published models made on the spot: random weights, and a tokenizer of whole words and bytes."""

import json

import numpy as np

from moe_numpy.models import Transformer
from moe_numpy.pretrained import PublishedConfig, save_pretrained

VOCABULARY = 320  # of the model; the tokenizer has fewer
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "eos_token_id": 1,
}  # fmt: skip
MIXTRAL = COMMON | {
    "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02
}  # fmt: skip
LLAMA = COMMON | {"model_type": "llama"}
DEEPSEEK = COMMON | {
    "model_type": "deepseek_v3", "num_key_value_heads": 2, "n_routed_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
    "q_lora_rank": None, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 6, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5, "norm_topk_prob": True,
}  # fmt: skip
MINIMAX = MIXTRAL | {"model_type": "minimax_m2", "head_dim": 8, "rotary_dim": 4}
FAMILIES = {"mixtral": MIXTRAL, "llama": LLAMA, "deepseek_v3": DEEPSEEK}
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"


def tokenizer_json():
    """Bytes as GPT-2 writes them, and some words: several bytes in one token."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog did not " * 5], trainer)
    return tokenizer.to_str()


def make_published(folder, values=MIXTRAL, tokenizer=None, **changed):
    """Write a model with these settings, as published."""
    model = Transformer(PublishedConfig(values | changed), rng=np.random.default_rng(0))
    for name, buffer in model.named_buffers():
        buffer.data = np.random.default_rng(len(name)).normal(size=buffer.shape).astype(np.float32)
    files = {
        "tokenizer.json": tokenizer_json() if tokenizer is None else tokenizer,
        "tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}),
    }
    save_pretrained(model, folder, beside=files)
    return folder
