#!/usr/bin/env python3
"""test_bench.py SEER: what `seer bench` makes of times, on the fake driver (SEER_CUDA_DRIVER), where any two events are
half a millisecond apart and attend runs at 1.5 GHz."""
import json
import re
import subprocess
import sys

S, HQ, HKV, D = 256, 4, 2, 64
sweep = ["bench", "--backend", "cuda", "--tokens", str(S), "--heads", f"{HQ}:{HKV}", "--dim", str(D), "--density", "1",
         "--repeat", "3"]


def seer(*arguments):
    return subprocess.run([sys.argv[1], *sweep, *arguments], capture_output=True, text=True, check=True).stdout


def check(name, found, expected):
    assert abs(found - expected) <= 1e-3 * expected, f"{name} is {found}; expected {expected}"


rows = {(r["what"], r.get("mask")): r for r in json.loads(seer("--json"))["results"]}
ms = 0.5e-3
for (what, mask), r in rows.items():
    check(f"{what}: time", r["time"]["median"], ms)
    stages = {"attend": ms} if what in ("dense", "sparse") else {"pool": ms, "project": ms, "select": ms}
    if what == "prefill":
        stages["attend"] = ms
    assert r["stages"].keys() == stages.keys(), f"{what} has stages {sorted(r['stages'])}"
    for stage, seconds in stages.items():
        check(f"{what}: {stage}", r["stages"][stage]["median"], seconds)
    if what == "gate":
        assert "ghz" not in r and "kept_flop_per_s" not in r, r
    else:
        check(f"{what}: ghz", r["ghz"], 1.5)
    if what in ("gate", "prefill"):
        check(f"{what}: GB/s", r["gate_bytes_per_s"], S * (HQ + HKV) * D * 2 / ms)
# The diagonal counts half: of n rows of 64 tokens n^2 / 2 blocks.
check("dense: FLOP/s", rows["dense", None]["kept_flop_per_s"], 4 * D * HQ * S * (S + 1) / 2 / ms)
for family in ("random", "structured"):
    r = rows["sparse", family]
    check(f"{family}: FLOP/s", r["kept_flop_per_s"], 4 * D * HQ * S * S / 2 / ms)
    check(f"{family}: s", r["sharing_3_rows"], 2)  # the rows of 2, 3 and 4 blocks loaded as 4, the first as 1

table = seer()
heads = table.split("\n\n")[1].splitlines()[1].split()
assert heads == ["density", "s", "median", "p10", "p90", "of", "dense", "speed-up", "GFLOP/s", "gate", "GB/s", "GHz"], heads
expected = 4 * D * HQ * S * S / 2 / ms * 1e-9
assert re.search(rf"sparse random +100.0 % +2.00 +500 us .* {expected:.1f} +1.50$", table, re.M), table
assert re.search(r"^prefill .* 500 us +500 us +500 us +500 us$", table, re.M), table
print("the table and JSON are right")
