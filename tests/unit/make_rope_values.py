#!/usr/bin/env python3
"""Prints rope_values.inc: inverse frequencies as transformers computes them, for test_rope.cpp.

Needs torch and transformers: python3 make_rope_values.py > rope_values.inc
"""
import sys

import torch
import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

DIM = 64
NAN = "RopeConfig::NAN_"


def factors(scale):
    return [round(1.0 + scale * i**1.5, 4) for i in range(DIM // 2)]


# (the rope keys, max_position_embeddings, seq_len or None)
CASES = {
    "default": ({"rope_type": "default", "rope_theta": 10000.0}, 4096, None),
    "default_1e6": ({"rope_type": "default", "rope_theta": 1000000.0}, 4096, None),
    "linear": ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}, 4096, None),
    "dynamic_short": ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.7}, 4096, 1000),
    "dynamic_long": ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.7}, 4096, 10007),
    "llama3": ({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, 131072, None),
    "llama32": ({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                 "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, 131072, None),
    "yarn": ({"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 4.0,
              "original_max_position_embeddings": 32768}, 131072, None),
    "yarn_betas": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "beta_fast": 16.0, "beta_slow": 2.0,
                    "original_max_position_embeddings": 4096}, 65536, None),
    "yarn_untruncated": ({"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "truncate": False,
                          "original_max_position_embeddings": 4096}, 131072, None),
    "yarn_mscale": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 0.707,
                     "mscale_all_dim": 1.1, "original_max_position_embeddings": 4096}, 163840, None),
    "yarn_attention_factor": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "attention_factor": 0.9,
                               "original_max_position_embeddings": 4096}, 163840, None),
    "yarn_no_factor": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": None,
                        "original_max_position_embeddings": 4096}, 12288, None),
    "longrope_short": ({"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors(0.01),
                        "long_factor": factors(0.3), "original_max_position_embeddings": 4096}, 131072, 4096),
    "longrope_long": ({"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors(0.01),
                       "long_factor": factors(0.3), "original_max_position_embeddings": 4096}, 131072, 4097),
    "longrope_factor": ({"rope_type": "longrope", "rope_theta": 10000.0, "factor": 5.0, "short_factor": factors(0.01),
                         "long_factor": factors(0.3), "original_max_position_embeddings": 4096}, 131072, 9),
}
KINDS = {"default": "standard"}


def number(x):
    if x is None:
        return NAN
    if isinstance(x, bool):
        return "true" if x else "false"
    if isinstance(x, list):
        return "{" + ", ".join(repr(v) for v in x) + "}"
    return repr(x)


def main():
    transformers.logging.set_verbosity_error()
    print(f"// Made by make_rope_values.py with transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}. "
          f"Vectors of {DIM} channels.")
    print("// clang-format off")
    for name, (keys, max_positions, seq_len) in CASES.items():
        config = LlamaConfig(hidden_size=DIM, num_attention_heads=1, head_dim=DIM, max_position_embeddings=max_positions,
                             rope_parameters=dict(keys))
        kind = keys["rope_type"]
        if kind == "default":
            freqs = 1.0 / (keys["rope_theta"] ** (torch.arange(0, DIM, 2, dtype=torch.int64).float() / DIM))
            scaling = 1.0
        else:
            # While a model runs, transformers passes the length as a tensor.
            length = None if seq_len is None else torch.tensor(seq_len)
            freqs, scaling = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
        fields = [f"c.kind = RopeKind::{KINDS.get(kind, kind)}", f"c.theta = {keys['rope_theta']!r}"]
        order = ["factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "attention_factor",
                 "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "short_factor", "long_factor"]
        given = {k: number(v) for k, v in keys.items() if k not in ("rope_type", "rope_theta")}
        if kind == "longrope":
            given.setdefault("factor", NAN)
        for key in order:
            if key == "original_max_position_embeddings":
                fields.append(f"c.max_position_embeddings = {max_positions}")
            if key in given:
                fields.append(f"c.{key} = {given[key]}")
        bits = freqs.to(torch.float32).view(torch.int32).tolist()
        print(f'{{"{name}", [](RopeConfig &c) {{ {"; ".join(fields)}; }}, {seq_len or 0}, {float(scaling)!r},')
        print(" {" + ", ".join(f"0x{b:08x}" for b in bits) + "}},")


if __name__ == "__main__":
    sys.exit(main())
