"""SmolLM2 with libseerattn as its attention: perplexity, dense against sparse. What `./dev demo --full` runs."""
from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import List, NamedTuple, Optional

import torch

from capture import model_config, read_tokens
from demo import MODEL, ROOT, make_gates, percent, print_table
from smollm2 import SmolLM2

sys.path.insert(0, str(ROOT / "bindings" / "python" / "src"))
from seerattn import Context, Model, Select  # noqa: E402

LICENCES = Path("/usr/share/common-licenses")
TEXTS = ("Apache-2.0", "Artistic", "CC0-1.0", "MPL-2.0")  # 8766 tokens, no two alike
METHODS = (
    ("seerattn, every block", Select.all()),
    ("ratio 0.5", Select.ratio(0.5)),
    ("ratio 0.25", Select.ratio(0.25)),
    ("ratio 0.1", Select.ratio(0.1)),
)


class Result(NamedTuple):
    perplexity: float
    density: float
    ms_per_layer: float  # of attention, gate included
    seconds: float
    hidden: torch.Tensor


class Measure:
    """Runs the model over the tokens with one attention or another. Perplexity is that of the second half, so that
    every token measured has at least half the text as context."""

    def __init__(self, model: SmolLM2, seer: Context, gates: Model, tokens: List[int]) -> None:
        self.model, self.seer, self.gates, self.tokens = model, seer, gates, tokens

    def run(self, name: str, select: Optional[Select]) -> Result:
        """select None: PyTorch's attention."""
        kept = causal = 0
        attention_seconds = 0.0

        def attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            nonlocal kept, causal, attention_seconds
            start = time.perf_counter()
            if select is None:
                out = self.model.dense(layer, q, k, v)
                kept = causal = 1
            else:
                result = self.seer.prefill(self.gates, layer, q, k, v, select=select)
                out = result.out
                kept += result.stats.blocks_kept
                causal += result.stats.blocks_causal
            attention_seconds += time.perf_counter() - start
            return out

        def progress(done: int, total: int) -> None:
            if sys.stderr.isatty():
                print(f"\r{name}: layer {done} of {total}\x1b[K", end="" if done < total else "\r\x1b[K", file=sys.stderr, flush=True)

        start = time.perf_counter()
        hidden = self.model.forward(self.tokens, attention, progress)
        perplexity = self.model.perplexity(self.tokens, hidden, first=len(self.tokens) // 2)
        seconds = time.perf_counter() - start
        return Result(perplexity, kept / causal, 1e3 * attention_seconds / self.model.layers, seconds, hidden)


def demo(args: argparse.Namespace) -> None:
    out = args.build / "demo"
    out.mkdir(parents=True, exist_ok=True)
    print(f"loading {MODEL}", flush=True)
    model = SmolLM2(args.gguf)
    if not 128 <= args.tokens <= model.context:
        raise SystemExit(f"demo: --tokens is {args.tokens}, expected 128 to {model.context}")
    texts = args.text or [LICENCES / name for name in TEXTS]
    tokens = read_tokens(model, texts, args.tokens)
    config = out / "model.json"
    config.write_text(json.dumps(model_config(model), indent=2) + "\n", "utf-8")
    gates = make_gates(args.build / "tools" / "seer", out / MODEL, config)
    os.environ.setdefault("SEERATTN_LIB", str(args.build.resolve()))
    with Context(args.backend) as seer:
        measure = Measure(model, seer, seer.load(gates), tokens)
        print(f"{len(tokens)} tokens of {' '.join(path.name for path in texts)}, {model.layers} layers, f32")
        print(f"device: {seer.info.name} ({seer.info.detail})", flush=True)
        reference = measure.run("PyTorch, dense", None)
        print(f"PyTorch, dense: perplexity {reference.perplexity:.3f}, {reference.seconds:.0f} s", flush=True)
        results = [("PyTorch, dense", reference)]
        for name, select in METHODS:
            result = measure.run(name, select)
            results.append((name, result))
            print(f"{name}: perplexity {result.perplexity:.3f}, {result.seconds:.0f} s", flush=True)
            if select == Select.all():
                error = ((result.hidden - reference.hidden).norm() / reference.hidden.norm()).item()
                print(f"{name}: last hidden states differ from PyTorch's by {error:.1e} (Frobenius)", flush=True)
                if not error < 1e-3:
                    raise SystemExit("demo: every block kept must equal the model's own attention within rounding")
    print()
    rows = [
        [name, percent(r.density), f"{r.perplexity:.3f}", f"{r.perplexity / reference.perplexity - 1:+.1%}",
         f"{r.ms_per_layer:.1f}", f"{reference.ms_per_layer / r.ms_per_layer:.2f} x"]
        for name, r in results
    ]  # fmt: skip
    print_table(["attention", "density", "perplexity", "change", "ms per layer", "speed-up"], rows)
    print(f"\nperplexity of the last {len(tokens) - len(tokens) // 2} tokens; the gates are training-free, trained ones "
          "lose less")  # fmt: skip
