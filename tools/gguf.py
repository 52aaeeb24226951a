"""Reads GGUF files: metadata, and tensors of the few types that SmolLM2's file uses, as float32 torch tensors."""
from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import torch

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
_BLOCK = {F32: (1, 4), F16: (1, 2), Q4_1: (32, 20), Q8_0: (32, 34)}  # type: (elements, bytes)


class TensorInfo(NamedTuple):
    shape: Tuple[int, ...]  # row-major: the file's order reversed
    kind: int
    offset: int  # bytes from the start of the file


class GGUF:
    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.metadata: Dict[str, Any] = {}
        self.tensors: Dict[str, TensorInfo] = {}
        with open(self.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._at = 0
        if self._map[:4] != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file")
        self._at = 4
        version, tensor_count, pair_count = self._unpack("IQQ")
        if version < 2:
            raise ValueError(f"{path}: GGUF version {version}, expected 2 or 3")
        for _ in range(pair_count):
            key = self._string()
            self.metadata[key] = self._value(self._unpack("I")[0])
        raw = []
        for _ in range(tensor_count):
            name = self._string()
            shape = self._unpack("Q" * self._unpack("I")[0])
            raw.append((name, shape[::-1], *self._unpack("IQ")))
        alignment = self.metadata.get("general.alignment", 32)
        data = -(-self._at // alignment) * alignment
        for name, shape, kind, offset in raw:
            self.tensors[name] = TensorInfo(shape, kind, data + offset)

    def _unpack(self, layout: str) -> Tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._map, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        text = self._map[self._at : self._at + length].decode("utf-8")
        self._at += length
        return text

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            element, count = self._unpack("IQ")
            if element in _SCALARS:
                return list(self._unpack(_SCALARS[element] * count))
            return [self._value(element) for _ in range(count)]
        return self._unpack(_SCALARS[kind])[0]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in float32, dequantised."""
        shape, kind, offset = self.tensors[name]
        if kind not in _BLOCK:
            raise ValueError(f"{self.path}: tensor {name} has type {kind}; only F32, F16, Q4_1 and Q8_0 are read")
        elements, size = _BLOCK[kind]
        count = 1
        for extent in shape:
            count *= extent
        blocks = torch.frombuffer(self._map, dtype=torch.uint8, count=count // elements * size, offset=offset).view(-1, size)
        if kind in (F32, F16):
            values = blocks.view(torch.float32 if kind == F32 else torch.float16).float()
        else:
            scale = blocks[:, 0:2].contiguous().view(torch.float16).float()
            if kind == Q8_0:
                values = blocks[:, 2:].contiguous().view(torch.int8).float() * scale
            else:  # 16 bytes: low nibbles are elements 0..15, high ones 16..31
                minimum = blocks[:, 2:4].contiguous().view(torch.float16).float()
                nibbles = torch.cat([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], dim=1)
                values = nibbles.float() * scale + minimum
        return values.reshape(shape).clone()
