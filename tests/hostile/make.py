#!/usr/bin/env python3
"""Writes the .pth files of this folder with PyTorch: every form of torch.save that a loader meets, and some it refuses.

good-*.pth hold one and the same model, that of config.json: layers 0 and 1, mask_linear_k [4, 12, 4], element i of
layer l being 1000 l + i. The others are refused; tests/unit/test_gate_load.cpp says how. Hostile files that PyTorch
cannot write are built byte by byte in the unit tests.

usage: make.py [FOLDER]
"""
import collections
import json
import os
import sys

import torch

SHAPE = (4, 12, 4)
FOLDER = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))


def name(layer):
    return f"model.layers.{layer}.self_attn.attn_gate.mask_linear_k.weight"


def weight(layer, dtype=torch.float32):
    return (1000.0 * layer + torch.arange(192, dtype=torch.float32)).reshape(SHAPE).to(dtype)


def save(file, value, **kwargs):
    torch.save(value, os.path.join(FOLDER, file + ".pth"), **kwargs)


def plain():
    return {name(0): weight(0), name(1): weight(1)}


class Evil:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


for protocol in (2, 3, 4, 5):
    save(f"good-protocol-{protocol}", plain(), pickle_protocol=protocol)
state = collections.OrderedDict(plain())
state._metadata = collections.OrderedDict({"": {"version": 1}, "model": {"version": 1}})
save("good-ordered-dict-metadata", state)
save("good-parameter", {k: torch.nn.Parameter(v) for k, v in plain().items()})
save("good-shared-storage", dict(zip(plain(), torch.stack(list(plain().values())))))
save("good-permuted", {k: v.permute(2, 0, 1).contiguous().permute(1, 2, 0) for k, v in plain().items()})
wide = torch.full((4, 20, 7), -1.0)
wide[:, 3:15, 2:6] = weight(1)
save("good-sliced", {name(0): weight(0), name(1): wide[:, 3:15, 2:6]})
save("good-every-other-row", {k: v.repeat_interleave(2, 1)[:, ::2] for k, v in plain().items()})
base = torch.zeros(8)
save("good-many-keys", {**{f"x.{i}": base[i % 8 : i % 8 + 1] for i in range(1200)}, **plain()})
save("good-single-key-dicts", {**plain(), "other": {"one": 1}, "tuple": (1, (2, 3), [], [4])})
save(
    "good-trainer",
    {**plain(), "step": 70000, "big": 2**40, "lr": 1e-3, "none": None, "flag": True, "losses": [1.0, 2.0],
     "args": {"a": [1]}, "ids": torch.arange(3), "mask": torch.ones(2, dtype=torch.bool), "empty": torch.empty(0, 3)},
)
save("good-half", {k: v.to(torch.float16) for k, v in plain().items()})
save("bad-os-system", {**plain(), "x": Evil()})
save("bad-old-format", plain(), _use_new_zipfile_serialization=False)
save("bad-one-tensor", weight(0))
save("bad-list", [weight(0)])
save("bad-int-key", {**plain(), "state": {0: 1}})
save("bad-double", {k: v.to(torch.float64) for k, v in plain().items()})
save("bad-expanded", {name(0): weight(0), name(1): torch.zeros(1).expand(SHAPE)})
save("bad-missing-layer", {name(0): weight(0)})
save("bad-shape", {name(0): weight(0), name(1): weight(1).reshape(12, 4, 4)})
save("bad-scalar", {name(0): weight(0), name(1): torch.tensor(1.0)})
save("bad-set", {**plain(), "x": {1, 2}})

config = dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4, seerattn_gate_hidden_size=4)
with open(os.path.join(FOLDER, "config.json"), "w") as f:
    json.dump(config, f, indent=2)
    f.write("\n")
