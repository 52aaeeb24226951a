"""The CUDA kernels of the gate as functions to launch. The structures mirror cuda/launch_gate.h."""
import ctypes
import math

import torch

import cuda_driver as cd

NAME = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
PROJECT_ROWS, PROJECT_THREADS, COLS, DIM = 32, 256, 64, 128
FIRST, DIAGONAL = 1, 2


def structure(name, fields):
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int32, "l": ctypes.c_int64, "f": ctypes.c_float, "u": ctypes.c_uint32}
    return type(name, (ctypes.Structure,), {"_fields_": [
        (n, kinds[k] if isinstance(k, str) else k) for k, names in fields for n in names.split()]})


ProjectSequence = structure("ProjectSequence", [("i", "blocks pooled_row gate_row position first_item")])
ProjectParams = structure("ProjectParams", [
    ("p", "pooled weight gate"), ("i", "pooled_heads gate_heads in_ out items sequences"), ("p", "sequence"),
    (ProjectSequence, "only"), ("p", "coarse fine")])
GateSequence = structure("GateSequence", [
    ("l", "scores_at mask_at"), ("i", "q_len offset first_row rows q_row k_row dense_row keep first_item unused")])
ScoreParams = structure("ScoreParams", [
    ("p", "q k"), ("i", "q_heads k_heads dim"), ("f", "scale"), ("i", "block items sequences"), ("p", "sequence"),
    (GateSequence, "only"), ("i", "stash"), ("p", "scores"), ("l", "scores_head scores_row"),
    ("i", "cols fill col_tiles"), ("p", "mask"), ("l", "mask_head mask_row"), ("i", "words"), ("f", "threshold"),
    ("u", "flags"), ("p", "stats")])
CLUSTERS = 160
SelectClusterParams = structure("SelectClusterParams", [
    (ScoreParams, "score"), (ctypes.c_int32 * (CLUSTERS + 1), "start")])
SelectRowsParams = structure("SelectRowsParams", [
    ("p", "scores"), ("l", "scores_head scores_row"), ("f", "threshold"), ("i", "block q_heads items sequences"),
    ("p", "sequence"), (GateSequence, "only"), ("p", "mask"), ("l", "mask_head mask_row"), ("i", "words"),
    ("u", "flags"), ("p", "stats")])


ProjectTermsParams = structure("ProjectTermsParams", [
    ("p", "terms gate"), ("i", "pooled_heads gate_heads"), ("u", "bits"), ("i", "tiles first_tile items sequences"),
    ("p", "sequence"), (ProjectSequence, "only"), ("p", "coarse fine")])


class Module:
    def __init__(self, cubin):
        torch.zeros(1, device="cuda")
        self.module, self.fns = ctypes.c_void_p(), {}
        cd.check(cd.cuda.cuModuleLoad(ctypes.byref(self.module), cubin.encode()))

    def fn(self, name, shared):
        fn = ctypes.c_void_p()
        cd.check(cd.cuda.cuModuleGetFunction(ctypes.byref(fn), self.module, name.encode()))
        if shared > 48 << 10:
            cd.check(cd.cuda.cuFuncSetAttribute(fn, 8, shared))
        return fn

    def launcher(self, name, grid, threads, shared, params, keep, early=False):
        return cd.launcher(self.fn(name, shared), grid, threads, shared, params, keep, early)


def table(rows, kind, params, keep):
    params.sequences, params.only = len(rows), rows[0]
    if len(rows) > 1:
        t = torch.frombuffer(bytearray(b"".join(bytes(r) for r in rows)), dtype=torch.uint8).cuda()
        params.sequence = t.data_ptr()
        keep.append(t)


class Project:
    def __init__(self, module):
        self.module = module

    def plan(self, pooled, weight, gate, sequences, rope=None, early=False):
        """pooled [row, heads, in], weight [heads, in, out] or None, gate [row, heads, out]; sequences: list of (blocks,
        pooled_row, gate_row, position); rope: tables of cuda_pool.py, of blocks."""
        p, rows, items = ProjectParams(), [], 0
        for s in sequences:
            if s[0]:
                rows.append(ProjectSequence(*s, items))
            items += -(-s[0] // PROJECT_ROWS)
        p.pooled, p.gate = pooled.data_ptr(), gate.data_ptr()
        p.pooled_heads, p.gate_heads, p.in_, p.out = pooled.shape[1], gate.shape[1], pooled.shape[2], gate.shape[2]
        keep = [pooled, weight, gate, rope]
        p.items = items
        table(rows, ProjectSequence, p, keep)
        if rope is not None:
            p.coarse, p.fine = rope[0].data_ptr(), rope[1].data_ptr()
        shared = 0
        if weight is None:
            name = "project_none"
        else:
            p.weight = weight.data_ptr()
            kind = NAME[weight.dtype]
            name = f"project_{kind}_{p.out}" if p.out in (64, 128) and p.in_ % 4 == 0 else f"project_any_{kind}"
            if "any" not in name:
                shared = (PROJECT_ROWS * 6 + p.out * {"bf16": 3, "f16": 2, "f32": 3}[kind]) * 128
        return self.module.launcher(name, (items * p.gate_heads, 1), PROJECT_THREADS, shared, p, keep, early)


class ProjectTerms:
    """project_sm90.cu: pooled vectors as terms (cuda_pool.new_terms), matrices of bf16 [heads, kinds * 128, 128]."""

    def __init__(self, module):
        self.module, self.sms = module, torch.cuda.get_device_properties(0).multi_processor_count

    def plan(self, terms, bits, weight, gate, sequences, rope=None, early=False, rows=None):
        p, seqs = ProjectTermsParams(), [ProjectSequence(*s, 0) for s in sequences if s[0]]
        p.terms, p.gate, p.pooled_heads, p.gate_heads = terms.data_ptr(), gate.data_ptr(), terms.shape[0], gate.shape[1]
        p.bits, p.tiles, p.first_tile = bits, terms.shape[1], seqs[0].pooled_row // 64
        wanted = p.tiles - p.first_tile
        if rows is None:
            rows = 128 if -(-wanted // 2) * p.gate_heads * 2 > self.sms else 64
        p.items = -(-wanted // (rows // 64)) * p.gate_heads
        keep = [terms, weight, gate, rope]
        table(seqs, ProjectSequence, p, keep)
        if rope is not None:
            p.coarse, p.fine = rope[0].data_ptr(), rope[1].data_ptr()
        weights = cd.aligned_map()
        cd.check(cd.cuda.cuTensorMapEncodeTiled(
            ctypes.byref(weights), 9, 2, ctypes.c_void_p(weight.data_ptr()),
            (ctypes.c_uint64 * 2)(128, weight.shape[0] * weight.shape[1]), (ctypes.c_uint64 * 1)(256),
            (ctypes.c_uint32 * 2)(64, 64), (ctypes.c_uint32 * 2)(1, 1), 0, 3, 3, 0))
        shared = 1024 + {64: 10, 128: 6}[rows] * rows * 128 + 6 * 16384 + 32768
        fn = self.module.fn(f"project_terms_{rows}", shared)
        return cd.launcher(fn, (min(self.sms, p.items), 1), 2 * rows + 128, shared, (weights, p), keep, early)


def score_shared(rows, stash):
    return (rows + COLS) * (DIM * 4 + 4) + rows * 16 + 16 + stash * rows * COLS * 4


def gate_sequences(sequences, tile, scores, mask, keep):
    """Of tuples (batch, mask_row, q_len, offset, rows, first_row, q_row, k_row, dense_row)."""
    rows, items = [], 0
    for (batch, mask_row, q_len, offset, n, first, q_row, k_row, dense) in sequences:
        if n:
            at = [0 if t is None else batch * t.stride(0) + mask_row * t.stride(2) for t in (scores, mask)]
            rows.append(GateSequence(*at, q_len, offset, first, n, q_row, k_row, dense, keep, items))
        items += -(-n // tile)
    return rows, items


class Score:
    def __init__(self, module, sm90=None, cluster=None):
        self.module, self.sm90, self.cluster = module, sm90, cluster

    def plan(self, name, q, k, block, sequences, rows, stash=0, scores=None, mask=None, threshold=0.0, flags=0,
             stats=None, scale=None, early=False, col_tiles=0):
        """q, k [row, heads, dim]; sequences: see gate_sequences; scores [batch, head, row, col]; mask words [batch, head,
        row, word]."""
        p = ScoreParams()
        p.q, p.k, p.q_heads, p.k_heads, p.dim = q.data_ptr(), k.data_ptr(), q.shape[1], k.shape[1], q.shape[2]
        if p.dim > DIM or p.dim % 4:
            name, rows = name + "_32_any", 32
        else:
            name = f"{name}_{rows}"
        seqs, items = gate_sequences(sequences, rows, scores, mask, 0)
        p.scale, p.block, p.items, p.stash = q.shape[2] ** -0.5 if scale is None else scale, block, items, stash
        keep, groups = [q, k, scores, mask, stats], 1
        table(seqs, GateSequence, p, keep)
        if scores is not None:
            p.scores, p.scores_head, p.scores_row = scores.data_ptr(), scores.stride(1), scores.stride(2)
            p.cols, p.fill, p.col_tiles = scores.shape[3], 1, col_tiles
            if col_tiles:
                groups = -(-scores.shape[3] // (COLS * col_tiles))
        if mask is not None:
            p.mask, p.mask_head, p.mask_row = mask.data_ptr(), mask.stride(1), mask.stride(2)
            p.words = mask.shape[3]
        p.threshold = math.inf if threshold >= 1 else math.log2(threshold) if threshold > 0 else -149
        p.flags = flags
        if stats is not None:
            p.stats = stats.data_ptr()
        return self.module.launcher(name, (items * p.q_heads, groups), 256 if rows == 128 else 128,
                                    score_shared(rows, stash), p, keep, early)


    def plan_sm90(self, module, q, k, block, sequences, rows, **rest):
        """select_threshold by wgmma, with 64 or 128 rows."""
        launch = self.plan("select_threshold", q, k, block, sequences, rows, **rest)
        keep, p, _ = launch.keep
        name = f"select_threshold_{rows}x{p.dim}"
        return module.launcher(name, (p.items * p.q_heads, 1), 2 * rows, p.dim * 1024, p, keep,
                               rest.get("early", False))


    def plan_cluster(self, q, k, block, sequences, cluster=None, room=None, **rest):
        """select_threshold with each logit computed once, by at most `room` clusters of so many blocks of threads; as
        the library does it if none is named."""
        early = rest.pop("early", False)
        launch = self.plan("select_threshold", q, k, block, sequences, 64, **rest)
        keep, score, _ = launch.keep
        seqs, _ = gate_sequences(sequences, 64, None, rest["mask"], 0)
        longest = max(-(-(s.q_len + s.offset) // block) for s in seqs)
        cluster = cluster or next(c for c in (1, 2, 4, 8) if 256 * c >= longest)
        shared = 8 * 32 * score.dim * 4 + 2 * 64 * score.dim * 4 + 4 * cluster * 512
        fn = self.cluster.fn(f"select_cluster_{score.dim}", shared)
        # The driver has no answer for clusters of one block.
        room = room or (cd.clusters_at_once(fn, 256, shared, cluster) if cluster > 1 else
                        torch.cuda.get_device_properties(0).multi_processor_count)
        start = shares(seqs, score.q_heads, block, cluster, min(room, CLUSTERS))
        table(seqs, GateSequence, score, keep)
        p = SelectClusterParams(score)
        p.start[:len(start)] = start
        return cd.launcher(fn, ((len(start) - 1) * cluster, 1), 256, shared, p, keep, early, cluster)


def shares(sequences, heads, block, cluster, room):
    """As src/cuda/select.cpp divides tiles among clusters. Fills in first_item."""
    begin, more, items, total = [], [], 0, 0
    for s in sequences:
        s.first_item = items
        tiles = -(-s.rows // 64)
        words, b, m = 0, [], []
        for t in range(tiles):
            keys = -(-(s.offset + min((t + 1) * 64 * block, s.q_len)) // block)
            assert keys <= 256 * cluster
            before, words = words, -(-keys // (32 * cluster))
            b.append(TILE_COST + WORD_COST * words + HEAD_COST + HEAD_WORD_COST * words)
            m.append(TILE_COST + WORD_COST * words + HEAD_WORD_COST * (words - before))
        begin += b * heads
        more += ([b[0]] + m[1:]) * heads
        items += tiles * heads
    limit = max(sum(more) // room, max(begin))
    while True:
        start, used = [0], 0
        head = {s.first_item + h * -(-s.rows // 64) for s in sequences for h in range(heads)}
        for i in range(items):
            cost = begin[i] if i == start[-1] or i in head else more[i]
            if i > start[-1] and used + cost > limit:
                start.append(i)
                used, cost = 0, begin[i]
            used += cost
        start.append(items)
        if len(start) - 1 <= room:
            return start
        limit += limit // 32 + 1


TILE_COST, WORD_COST, HEAD_COST, HEAD_WORD_COST = 10, 3, 15, 5


class SelectRows:
    def __init__(self, module):
        self.module = module

    def plan(self, scores, block, sequences, mask, threshold, best, flags, stats, early=False):
        """scores None: every row is dense. best: how many, 0: those above the threshold."""
        p = SelectRowsParams()
        rows, items = gate_sequences(sequences, 1, scores, mask, best)
        keep = [scores, mask, stats]
        table(rows, GateSequence, p, keep)
        if scores is not None:
            p.scores, p.scores_head, p.scores_row = scores.data_ptr(), scores.stride(1), scores.stride(2)
        p.threshold, p.block, p.q_heads, p.items = threshold, block, mask.shape[1], items
        p.mask, p.mask_head, p.mask_row, p.words = mask.data_ptr(), mask.stride(1), mask.stride(2), mask.shape[3]
        p.flags, p.stats = flags, stats.data_ptr()
        return self.module.launcher("select_rows", (-(-items * p.q_heads // 8), 1), 256, 0, p, keep, early)
