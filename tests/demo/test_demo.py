"""The demo on captured attention of a real model. test_demo.py BUILD_DIR [unittest options]"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import zlib

BUILD = pathlib.Path(sys.argv.pop(1))
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests" / "data" / "smollm2"
sys.path.insert(0, str(ROOT / "bindings" / "python" / "src"))
os.environ["SEERATTN_LIB"] = str(BUILD.resolve())

import seerattn  # noqa: E402
from seerattn import Select  # noqa: E402


def seer(*args):
    return subprocess.run([BUILD / "tools" / "seer", *map(str, args)], check=True, capture_output=True, text=True).stdout


def crc32(data):
    return f"{zlib.crc32(data):08x}"


def read(path):
    """{name: Tensor} of a .safetensors"""
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    del header["__metadata__"]
    return {
        name: seerattn.Tensor(raw, entry["dtype"], entry["shape"], offset=begin + entry["data_offsets"][0])
        for name, entry in header.items()
    }


class Demo(unittest.TestCase):
    # What ratio 0.5 keeps of the attention mass: a gate on averages that finds the blocks that matter. Random blocks
    # would keep about 60 %, and dropping the first block of layer 20 costs half.
    def test_table_and_pictures(self):
        with tempfile.TemporaryDirectory() as folder:
            build = pathlib.Path(folder)
            (build / "tools").mkdir()
            (build / "tools" / "seer").symlink_to(BUILD.resolve() / "tools" / "seer")
            command = [sys.executable, ROOT / "tools" / "demo.py", "--build", build, "--backend", "cpu", "--repeat", "1"]
            text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for layer in (11, 20):
                picture = build / "demo" / f"layer{layer}.png"
                self.assertTrue(picture.read_bytes().startswith(b"\x89PNG"))
                self.assertIn(str(picture), text)
        rows = re.findall(r"ratio ([\d.]+) +([\d.]+) %.* ([\d.]+) % +([\d.]+) %\n", text)
        self.assertEqual([row[0] for row in rows], ["0.75", "0.5", "0.25", "0.1"] * 2)
        for layer in (rows[:4], rows[4:]):
            mass = [float(row[3]) for row in layer]
            self.assertEqual(mass, sorted(mass, reverse=True))
            self.assertGreater(mass[1], 94)

    # Same library, same gates, same tensors: the command and the C API must give the same bytes.
    def test_library_equals_command(self):
        path = DATA / "layer20.safetensors"
        q, k, v = (read(path)[name] for name in "qkv")
        with tempfile.TemporaryDirectory() as folder:
            seer("gate-init", folder, "--config", DATA / "config.json")
            wanted = json.loads(seer("prefill", path, "--model", folder, "--layer", 20, "--ratio", 0.5, "--backend", "cpu", "--json"))
            with seerattn.Context("cpu") as library:
                with self.assertRaisesRegex(seerattn.FileError, "SEER_ERROR_IO"):
                    library.load(pathlib.Path(folder) / "absent")
                gates = library.load(folder)
                half = library.prefill(gates, 20, q, k, v, select=Select.ratio(0.5))
                self.assertEqual(half.stats.blocks_kept, wanted["blocks_kept"])
                self.assertEqual(crc32(half.out.tobytes()), wanted["checksum"]["crc32"])
                whole = library.prefill(gates, 20, q, k, v, select=Select.all())
                self.assertEqual(whole.stats.density, 1)
                self.assertNotEqual(crc32(whole.out.tobytes()), wanted["checksum"]["crc32"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
