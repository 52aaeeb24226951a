"""Runs the kernels of cuda/ on torch tensors through the CUDA driver API, with nothing but ctypes: for tests and
benchmarks of kernels alone, without the library. The structures mirror cuda/launch.h."""
import ctypes
import math

import torch

LOG2E = 1.4426950408889634
DTYPE = {torch.bfloat16: ("bf16", 9), torch.float16: ("f16", 6)}  # kernel name, CUtensorMapDataType


class Sequence(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int32) for n in
                ("batch", "q_begin", "q_len", "k_begin", "k_len", "mask_row", "first_item", "items")]


class Params(ctypes.Structure):
    _fields_ = [
        ("out", ctypes.c_void_p), ("out_batch", ctypes.c_int64), ("out_token", ctypes.c_int64),
        ("out_head", ctypes.c_int64),
        ("lse", ctypes.c_void_p), ("lse_batch", ctypes.c_int64), ("lse_head", ctypes.c_int64),
        ("lse_token", ctypes.c_int64),
        ("mask", ctypes.c_void_p), ("mask_batch", ctypes.c_int64), ("mask_head", ctypes.c_int64),
        ("mask_row", ctypes.c_int64), ("mask_shift", ctypes.c_int32),
        ("scale_log2", ctypes.c_float), ("heads", ctypes.c_int32), ("group", ctypes.c_int32),
        ("list_words", ctypes.c_int32), ("items", ctypes.c_int32), ("sequences", ctypes.c_int32),
        ("section", ctypes.c_int32), ("heads_first", ctypes.c_int32), ("sequence", ctypes.c_void_p),
        ("only", Sequence), ("split", ctypes.c_int32), ("partial", ctypes.c_void_p), ("counter", ctypes.c_void_p), ("clocks", ctypes.c_void_p),
        ("coarse", ctypes.c_void_p), ("fine", ctypes.c_void_p)]


class TensorMap(ctypes.Structure):
    _fields_ = [("raw", ctypes.c_uint64 * 16)]


def aligned_map():
    raw = ctypes.create_string_buffer(128 + 64)
    at = (ctypes.addressof(raw) + 63) // 64 * 64
    m = TensorMap.from_address(at)
    m.keep = raw
    return m


cuda = ctypes.CDLL("libcuda.so.1")


def check(r):
    if r != 0:
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(r, ctypes.byref(name))
        raise RuntimeError(f"CUDA driver: {name.value}")


class LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_ubyte * 60)]


class LaunchConfig(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint) for n in ("gx", "gy", "gz", "bx", "by", "bz", "shared")] + \
               [("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("count", ctypes.c_uint)]


def launch_config(fn, grid, threads, shared, early, cluster):
    attributes = []
    if early:
        attributes.append(LaunchAttribute(id=6, value=1))  # programmatic stream serialization
    if cluster > 1:
        attributes.append(LaunchAttribute(id=4, value=cluster, rest=(1, 0, 0, 0, 1)))  # cluster dimension
        check(cuda.cuFuncSetAttribute(fn, 14, 1))  # non-portable sizes too
    array = (LaunchAttribute * 2)(*attributes)
    return LaunchConfig(*grid, 1, threads, 1, 1, shared, None, ctypes.addressof(array), len(attributes)), array


def clusters_at_once(fn, threads, shared, cluster):
    config, array = launch_config(fn, (cluster, 1), threads, shared, False, cluster)
    count = ctypes.c_int()
    check(cuda.cuOccupancyMaxActiveClusters(ctypes.byref(count), fn, ctypes.byref(config)))
    return count.value


def launcher(fn, grid, threads, shared, params, keep, early=False, cluster=1):
    """A function that launches on the current stream; params: a structure or several; `early`: may start before the
    kernel ahead has ended; `cluster`: blocks of threads of one."""
    every = params if isinstance(params, tuple) else (params,)
    args = (ctypes.c_void_p * len(every))(*(ctypes.addressof(x) for x in every))
    config, attribute = launch_config(fn, grid, threads, shared, early, cluster)

    def launch():
        config.stream = torch.cuda.current_stream().cuda_stream
        check(cuda.cuLaunchKernelEx(ctypes.byref(config), fn, args, None))
    launch.keep = (keep, params, attribute)
    return launch


def pack_mask(mask):
    """bool [..., rows, cols] -> int32 words, least significant bit first."""
    n = mask.shape[-1]
    words = -(-n // 32)
    padded = torch.nn.functional.pad(mask, (0, words * 32 - n)).unflatten(-1, (words, 32)).to(torch.int64)
    w = (padded << torch.arange(32, device=mask.device)).sum(-1)
    return torch.where(w >= 2**31, w - 2**32, w).to(torch.int32).contiguous()


class RopeTables:
    """Angles as kernels take them (PoolParams in cuda/launch.h)."""

    def __init__(self, positions, dim, theta=5e5, scaling=1.0):
        frequency = theta ** (-torch.arange(0, dim, 2, device="cuda", dtype=torch.float64) / dim)
        rows = torch.arange(-(-positions // 64), device="cuda", dtype=torch.float64)[:, None] * 64
        self.coarse = self.pairs(rows * frequency, scaling)
        self.fine = self.pairs(torch.arange(64, device="cuda", dtype=torch.float64)[:, None] * frequency, 1.0)

    @staticmethod
    def pairs(angle, scaling):
        return (torch.stack([angle.cos(), angle.sin()], -1) * scaling).float().contiguous()

    def rotate(self, x, positions):
        """x [token, head, dim] at these positions, in x's type."""
        u, v = self.coarse[positions // 64], self.fine[positions % 64]
        c = (u[..., 0] * v[..., 0] - u[..., 1] * v[..., 1])[:, None]
        s = (u[..., 1] * v[..., 0] + u[..., 0] * v[..., 1])[:, None]
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * c - b * s, b * c + a * s], -1).to(x.dtype)


class Attend:
    """One kernel of a cubin. Tensors are [batch, token, head, dim] with any strides over the first three."""

    def __init__(self, cubin, name, groups):
        self.name, self.groups = name, groups
        module, self.fn, at, size = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t()
        torch.zeros(1, device="cuda")
        check(cuda.cuModuleLoad(ctypes.byref(module), cubin.encode()))
        check(cuda.cuModuleGetFunction(ctypes.byref(self.fn), module, name.encode()))
        check(cuda.cuModuleGetGlobal_v2(ctypes.byref(at), ctypes.byref(size), module, (name + "_shared").encode()))
        shared = ctypes.c_int()
        check(cuda.cuMemcpyDtoH_v2(ctypes.byref(shared), at, ctypes.c_size_t(4)))
        self.shared = shared.value
        self.sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.counter = torch.zeros(512, dtype=torch.int32, device="cuda")
        self.clocks = torch.zeros(2, dtype=torch.int64, device="cuda")

    def plan(self, q, k, v, out, lse=None, mask=None, block=64, scale=None, sequences=None, heads_first=False,
             section=None, rope=None, split=1):
        """sequences: list of (batch, q_begin, q_len, k_begin, k_len, mask_row). mask: int32 words [batch, head, row,
        word]. rope: RopeTables for q, which is then taken as it is before RoPE. split: parts of first items. Returns a
        function that launches on the current stream."""
        b, s, h, d = q.shape
        hkv = k.shape[2]
        if sequences is None:
            sequences = [(i, 0, s, 0, k.shape[1], 0) for i in range(b)]
        group, seqs, items, first_items = h // hkv, [], 0, hkv if heads_first else h
        if self.groups * first_items * len(sequences) + 2 > self.counter.numel():
            split = 1
        for (batch, qb, ql, kb, kl, mr) in sequences:
            rows = -(-ql // 64)
            n = hkv * -(-rows * group // self.groups) if heads_first else h * -(-rows // self.groups)
            if n == 0:
                continue
            n += first_items * (split - 1)
            seqs.append(Sequence(batch, qb, ql, kb, kl, mr, items, n))
            items += n
        p = Params()
        p.out, p.out_batch, p.out_token, p.out_head = out.data_ptr(), out.stride(0), out.stride(1), out.stride(2)
        if lse is not None:  # [batch, head, token]
            p.lse, p.lse_batch, p.lse_head, p.lse_token = lse.data_ptr(), *lse.stride()
        if mask is not None:
            p.mask, (p.mask_batch, p.mask_head, p.mask_row) = mask.data_ptr(), mask.stride()[:3]
        p.mask_shift = {64: 0, 128: 1}[block]
        p.scale_log2 = max((d ** -0.5 if scale is None else scale) * LOG2E, 1e-30)
        p.heads, p.group, p.items, p.sequences, p.heads_first = h, group, items, len(seqs), int(heads_first)
        longest = max(x.k_len for x in seqs)
        p.section = section or max(1, min(hkv, (34 << 20) // (longest * d * 4)))
        p.list_words = max((-(-x.k_len // 64) + 31) // 32 for x in seqs)
        keep = [q, k, v, out, lse, mask]
        p.only = seqs[0]
        if len(seqs) > 1:
            table = torch.frombuffer(bytearray(b"".join(bytes(x) for x in seqs)), dtype=torch.uint8).cuda()
            p.sequence = table.data_ptr()
            keep.append(table)
        p.split = split
        if split > 1:
            parts = torch.full((first_items * len(seqs) * self.groups * split, 128 * (d // 2 + 4)), math.nan,
                               device="cuda")
            p.partial = parts.data_ptr()
            keep.append(parts)
        p.counter, p.clocks = self.counter.data_ptr(), self.clocks.data_ptr()
        if rope is not None:
            p.coarse, p.fine = rope.coarse.data_ptr(), rope.fine.data_ptr()
            keep.append(rope)
        maps = [self.encode(t, max(e)) for t, e in (
            (q, [x.q_begin + x.q_len for x in seqs]), (k, [x.k_begin + x.k_len for x in seqs]),
            (v, [x.k_begin + x.k_len for x in seqs]))]
        shared = self.shared + 4 * (2 * (self.groups + 1) * p.list_words + 1)
        check(cuda.cuFuncSetAttribute(self.fn, 8, shared))
        args = (ctypes.c_void_p * 4)(*(ctypes.addressof(x) for x in (*maps, p)))
        grid = min(self.sms, items)

        def launch():
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            check(cuda.cuLaunchKernel(self.fn, grid, 1, 1, (self.groups + 1) * 128, 1, 1, shared, stream, args, None))
        launch.keep = (keep, maps, p)
        return launch

    @staticmethod
    def encode(t, tokens):
        b, _, h, d = t.shape
        e = t.element_size()
        m = aligned_map()
        stride = [t.stride(1) * e, 128, t.stride(2) * e, t.stride(0) * e]
        extent = [64, tokens, d // 64, h, b]
        stride = [s if n > 1 else 128 for s, n in zip(stride, extent[1:])]
        check(cuda.cuTensorMapEncodeTiled(
            ctypes.byref(m), DTYPE[t.dtype][1], 5, ctypes.c_void_p(t.data_ptr()), (ctypes.c_uint64 * 5)(*extent),
            (ctypes.c_uint64 * 4)(*stride), (ctypes.c_uint32 * 5)(64, 64, d // 64, 1, 1),
            (ctypes.c_uint32 * 5)(*[1] * 5), 0, 3, 3, 0))
        return m

    def ghz(self):
        clocks, ns = self.clocks.tolist()
        return clocks / max(ns, 1)


def reference(q, k, v, mask, block, sequences, scale):
    """f32 attention over kept blocks and its LSE, as the library defines them. mask: bool [batch, head, row, col]. What
    meets an Inf or NaN of V is NaN."""
    b, s, h, d = q.shape
    out = torch.full((b, s, h, d), math.nan, device=q.device)
    lse = torch.full((b, h, s), math.nan, device=q.device)
    group = h // k.shape[2]
    for (batch, qb, ql, kb, kl, mr) in sequences:
        if ql == 0:
            continue
        qs = q[batch, qb:qb + ql].float().transpose(0, 1)
        ks = k[batch, kb:kb + kl].float().transpose(0, 1).repeat_interleave(group, 0)
        vs = v[batch, kb:kb + kl].float().transpose(0, 1).repeat_interleave(group, 0)
        a = qs @ ks.transpose(1, 2) * scale
        i, j = torch.arange(ql, device=q.device), torch.arange(kl, device=q.device)
        keep = (j[None] <= i[:, None] + kl - ql)[None].expand(h, -1, -1)
        if mask is not None:
            keep = keep & mask[batch][:, mr + i[:, None] // block, j[None] // block]
        a = a.masked_fill(~keep, -math.inf)
        l = torch.logsumexp(a, -1)
        p = torch.exp(a - torch.where(l == -math.inf, 0, l)[..., None])
        met = keep.float() @ (~torch.isfinite(vs)).float() > 0
        out[batch, qb:qb + ql] = (p @ vs.nan_to_num(0, 0, 0)).masked_fill(met, math.nan).transpose(0, 1)
        lse[batch, :, qb:qb + ql] = l
    return out, lse
