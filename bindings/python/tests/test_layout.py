"""This package's declarations are the header's: sizes, offsets, types, constants, functions."""

import ctypes
import json
import re
import unittest

import seerattn
from seerattn import _abi, _errors
from seerattn._library import library
from support import ROOT

LAYOUT = json.loads((ROOT / "tests" / "abi" / "layout.json").read_text("utf-8"))
KINDS = {
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "uint8_t": ctypes.c_uint8,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
    "char": ctypes.c_char,
}


def declared(kind):
    """The ctypes type for a C type of the layout file, or the base class of what will do."""
    found = re.fullmatch(r"(\w+)\[(\d+)\]", kind)
    if found:
        return declared(found[1]) * int(found[2])
    if kind in LAYOUT["structs"]:
        return getattr(_abi, kind)
    if kind.endswith("_fn") or "(*)" in kind:
        return ctypes._CFuncPtr
    found = re.fullmatch(r"(?:const )?(\w+) \*", kind)
    if found:
        target = found[1]
        if target in KINDS or target in LAYOUT["structs"]:
            return ctypes.POINTER(declared(target))
        return ctypes.c_void_p
    return KINDS.get(kind, ctypes.c_int32 if kind.startswith("seer_") else None)


class Layout(unittest.TestCase):
    def test_structs(self):
        ours = {n: t for n, t in vars(_abi).items() if isinstance(t, type) and issubclass(t, ctypes.Structure)}
        self.assertEqual(set(ours), set(LAYOUT["structs"]))
        for name, wanted in LAYOUT["structs"].items():
            with self.subTest(struct=name):
                struct = ours[name]
                self.assertEqual(ctypes.sizeof(struct), wanted["size"])
                self.assertEqual(ctypes.alignment(struct), wanted["align"])
                self.assertEqual([field[0] for field in struct._fields_], [field["name"] for field in wanted["fields"]])
                for (field, kind), entry in zip(struct._fields_, wanted["fields"]):
                    place = getattr(struct, field)
                    self.assertEqual((place.offset, place.size), (entry["offset"], entry["size"]), field)
                    expected = declared(entry["type"])
                    self.assertIsNotNone(expected, entry["type"])
                    self.assertTrue(kind is expected or issubclass(kind, expected), f"{field}: {kind} for {entry['type']}")

    def test_constants(self):
        for name, value in LAYOUT["constants"].items():
            with self.subTest(constant=name):
                self.assertEqual(getattr(_abi, name), value)
        ours = {name for name, value in vars(_abi).items() if name.startswith("SEER_") and isinstance(value, int)}
        self.assertLessEqual(ours - set(LAYOUT["constants"]), {"SEER_TICKET_ALL"})

    def test_functions(self):
        self.assertEqual(sorted(_abi.PROTOTYPES), sorted(LAYOUT["functions"]))
        for name in LAYOUT["functions"]:
            self.assertTrue(hasattr(library(), name), name)

    def test_every_error_has_a_class_of_its_name(self):
        errors = {n: v for n, v in LAYOUT["constants"].items() if n.startswith("SEER_ERROR_")}
        self.assertEqual({kind.name: status for status, kind in _errors.BY_STATUS.items()}, errors)
        for kind in _errors.BY_STATUS.values():
            self.assertIs(getattr(seerattn, kind.__name__), kind)

    def test_version(self):
        self.assertEqual(seerattn.version(), seerattn.__version__)
        text = (ROOT / "bindings" / "python" / "pyproject.toml").read_text("utf-8")
        self.assertIn(f'\nversion = "{seerattn.__version__}"\n', text)


if __name__ == "__main__":
    unittest.main()
