"""Wrong use gives Python's errors, never undefined behaviour."""

import array
import copy
import gc
import pickle
import unittest

import seerattn
from seerattn._handles import Use
from support import WithContext, f32, needs_numpy, needs_torch, numpy, problem, small_gates


class Closed(unittest.TestCase):
    def test_everything_refuses_when_closed(self):
        ctx = seerattn.Context("cpu", threads=1)
        gates, buffer = small_gates(ctx), seerattn.Buffer(ctx, 64)
        cache, cancel = seerattn.GateCache(ctx, gates, 64), seerattn.Cancel()
        q, k, v = problem()
        view = buffer.tensor("F32", (1, 4, 1, 4))
        for handle, calls in (
            (cancel, [cancel.trigger, lambda: ctx.prefill(gates, 0, q, k, v, cancel=cancel)]),
            (cache, [lambda: cache.length(0), lambda: ctx.prefill(gates, 0, q, k, v, cache=cache)]),
            (buffer, [buffer.read, lambda: buffer.write(b""), lambda: ctx.attention(view, view, view)]),
            (gates, [lambda: gates.save("."), lambda: ctx.prefill(gates, 0, q, k, v)]),
            (ctx, [ctx.sync, lambda: ctx.attention(q, k, v), lambda: seerattn.Buffer(ctx, 1), lambda: ctx.load(".")]),
        ):
            self.assertFalse(handle.closed)
            handle.close()
            handle.close()
            self.assertTrue(handle.closed)
            for call in calls:
                with self.assertRaisesRegex(seerattn.HandleError, "is closed"):
                    call()

    def test_children_outlive_their_parents(self):
        ctx = seerattn.Context("cpu", threads=1)
        gates = small_gates(ctx)
        buffer = seerattn.Buffer(ctx, 4)
        ctx.close()
        self.assertEqual(gates.config.layers, 1)
        buffer.close()
        other = seerattn.Context("cpu", threads=1)
        self.assertEqual(other.prefill(gates, 0, *problem()).stats.fallback_rows, 0)

    def test_a_handle_in_use_is_released_by_its_last_user(self):
        with seerattn.Context("cpu", threads=1) as ctx:
            gates, released = small_gates(ctx), []
            release, gates._state.release = gates._state.release, released.append
            first, second = Use(gates, seerattn.Model), Use(gates, seerattn.Model)
            gates.close()
            first.drop()
            first.drop()
            self.assertEqual(released, [])
            second.drop()
            self.assertEqual(released, [second.pointer])
            release(second.pointer)

    def test_with(self):
        with seerattn.Context("cpu", threads=1) as ctx:
            out = ctx.attention(*problem()).out
        self.assertTrue(ctx.closed)
        self.assertEqual(len(out.tobytes()), out.nbytes)

    def test_no_copies(self):
        with seerattn.Context("cpu", threads=1) as ctx:
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaises(TypeError):
                    attempt(ctx)


class Arguments(WithContext):
    def setUp(self):
        self.q, self.k, self.v = problem()
        self.gates = small_gates(self.ctx)

    def refused(self, kind, text, **changes):
        arguments = {"model": self.gates, "layer": 0, "q": self.q, "k": self.k, "v": self.v, **changes}
        with self.assertRaisesRegex(kind, text) as caught:
            self.ctx.prefill(**arguments)
        return caught.exception

    def test_types(self):
        self.refused(TypeError, "q is a list", q=[1.0])
        self.refused(TypeError, "expected a seerattn.Model", model=self.ctx)
        self.refused(TypeError, "expected a seerattn.Cancel", cancel=self.gates)
        self.refused(seerattn.DTypeError, "format 'd'", q=memoryview(array.array("d", [0.0])))
        self.refused(seerattn.DTypeError, "dtype", k=seerattn.Tensor(self.k.tobytes(), "BF16", self.k.shape))
        error = self.refused(seerattn.DTypeError, "q", q=seerattn.Tensor(self.q.tobytes(), "I32", self.q.shape))
        self.assertIsInstance(error, TypeError)
        self.assertEqual((error.status, error.name), (-5, "SEER_ERROR_DTYPE"))
        self.assertTrue(str(error).startswith("SEER_ERROR_DTYPE: "))

    def test_shapes(self):
        self.refused(seerattn.ShapeError, "dimensions", q=f32([], (0,)))
        self.refused(ValueError, "SEER_ERROR_SHAPE", k=problem(keys=20)[1])
        self.refused(ValueError, "SEER_ERROR_SHAPE", out=f32([0.0] * 64, (1, 1, 2, 32)))
        self.refused(seerattn.InvalidArgumentError, "layer", layer=7)
        self.refused(ValueError, "", sequences=[0, 200])
        self.refused(seerattn.InvalidArgumentError, "sequences", sequences=[0])
        self.refused(seerattn.InvalidArgumentError, "without sequences", sequences_k=[0, 1])
        self.refused(ValueError, "", select=seerattn.Select.ratio(7))
        self.refused(ValueError, "", select=seerattn.Select.threshold(float("nan")))

    def test_memory(self):
        with self.assertRaises(seerattn.OutOfBoundsError) as caught:
            seerattn.Tensor(bytes(15), "F32", (4,))
        self.assertIsInstance(caught.exception, IndexError)
        for offset in (-1, 17):
            with self.assertRaises(seerattn.OutOfBoundsError):
                seerattn.Tensor(bytes(16), "F32", (1,), offset=offset)
        with self.assertRaises(seerattn.ShapeError):
            seerattn.Tensor(bytes(16), "F32", (-1, 4))
        with self.assertRaises(seerattn.ShapeError):
            seerattn.Tensor(bytes(16), "F32", (2, 2), strides=(1,))
        with self.assertRaises(seerattn.StrideError):
            seerattn.Tensor(memoryview(bytes(16))[::2], "F32", (2,))
        buffer = seerattn.Buffer(self.ctx, 16)
        with self.assertRaises(seerattn.OutOfBoundsError):
            buffer.tensor("F32", (5,))
        with self.assertRaises(seerattn.OutOfBoundsError):
            buffer.read(8, offset=12)
        with self.assertRaises(seerattn.InvalidArgumentError):
            buffer.read_into(bytes(4))

    def test_strides(self):
        shape = self.q.shape
        memory = bytearray(2 * self.q.nbytes)
        error = self.refused(seerattn.StrideError, "q", q=seerattn.Tensor(memory, "F32", shape, strides=(0, 128, 64, 2)))
        self.assertIsInstance(error, ValueError)
        self.refused(seerattn.StrideError, "broadcast", q=seerattn.Tensor(bytes(4), "F32", shape, strides=(0, 0, 0, 0)))
        self.refused(seerattn.StrideError, "q", q=seerattn.Tensor(memory, "F32", shape, strides=(0, -64, 32, 1)))

    def test_outputs(self):
        self.refused(seerattn.InvalidArgumentError, "out is read-only", out=seerattn.Tensor(bytes(self.q.nbytes), "F32", self.q.shape))
        self.refused(seerattn.StrideError, "overlap", out=self.q)
        memory = bytearray(2 * self.q.nbytes)
        out = seerattn.Tensor(memory, "F32", self.q.shape)
        lse = seerattn.Tensor(memory, "F32", (1, 2, 130), offset=self.q.nbytes - 4)
        self.refused(seerattn.StrideError, "overlap", out=out, lse=lse)
        before = bytes(memory)
        self.assertEqual(before, bytes(len(before)))  # a call that fails writes nothing

    def test_memory_in_use_does_not_move(self):
        data = bytearray(self.q.tobytes())
        tensor = seerattn.Tensor(data, "F32", self.q.shape)
        with self.assertRaises(BufferError):
            data.extend(b"more")
        del tensor
        gc.collect()
        data.extend(b"more")

    def test_names(self):
        with self.assertRaisesRegex(seerattn.InvalidArgumentError, "expected one of auto"):
            seerattn.Context("gpu")
        with self.assertRaisesRegex(seerattn.DTypeError, "F64"):
            seerattn.Tensor(b"", "F64", (0,))
        with self.assertRaises(TypeError):
            seerattn.Model()

    @needs_numpy
    def test_numpy(self):
        q, k, v = (numpy.array(x) for x in (self.q, self.k, self.v))
        self.refused(seerattn.StrideError, "q", q=q[..., ::-1], k=k, v=v)
        self.refused(seerattn.StrideError, "q", q=numpy.asfortranarray(q), k=k, v=v)
        self.refused(seerattn.DTypeError, "float64", q=q.astype(float), k=k, v=v)
        self.refused(seerattn.StrideError, "broadcast", q=numpy.broadcast_to(numpy.float32(1), q.shape), k=k, v=v)
        frozen = numpy.empty_like(q)
        frozen.flags.writeable = False
        self.refused(seerattn.InvalidArgumentError, "read-only", q=q, k=k, v=v, out=frozen)
        packed = numpy.dtype({"names": ["x"], "formats": ["<f4"], "itemsize": 6})
        odd = numpy.zeros((1, 130, 2, 32), packed)["x"]
        self.refused(seerattn.StrideError, "stride of 6 bytes", q=odd, k=k, v=v)

    @needs_torch
    def test_torch(self):
        q, k, v = (x.torch().clone() for x in (self.q, self.k, self.v))
        self.refused(seerattn.DTypeError, "float64", q=q.double(), k=k, v=v)
        self.refused(seerattn.StrideError, "", q=q.transpose(2, 3).contiguous().transpose(2, 3), k=k, v=v)
        self.refused(seerattn.StrideError, "sparse", q=q[0, 0].to_sparse(), k=k, v=v)
        self.refused(seerattn.MemoryKindError, "meta", q=q.to("meta"), k=k, v=v)

    @needs_numpy
    def test_a_capsule_is_used_once(self):
        class Same:
            def __init__(self, array):
                self.device, self.capsule = array.__dlpack_device__(), array.__dlpack__()

            def __dlpack_device__(self):
                return self.device

            def __dlpack__(self, **_):
                return self.capsule

        same = Same(numpy.array(self.q))
        first = self.ctx.prefill(self.gates, 0, same, self.k, self.v)
        self.refused(seerattn.InvalidArgumentError, "not yet used", q=same)
        self.assertEqual(first.out.shape, self.q.shape)

    def test_dlpack_frees_what_it_took(self):
        import ctypes

        from seerattn import _dlpack

        freed = []
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        shape = (ctypes.c_int64 * 4)(*self.q.shape)
        managed = _dlpack._DLManagedTensorVersioned(major=1, flags=1)
        managed.deleter = type(managed.deleter)(freed.append)
        managed.dl_tensor.data, managed.dl_tensor.ndim, managed.dl_tensor.shape = self.q._address, 4, shape
        managed.dl_tensor.device.device_type = 1
        managed.dl_tensor.dtype = _dlpack._DLDataType(2, 32, 1)

        class Producer:
            def __dlpack_device__(self):
                return 1, 0

            def __dlpack__(self, max_version=None):
                return new(ctypes.addressof(managed), b"dltensor_versioned", None)

        ticket = self.ctx.prefill(self.gates, 0, Producer(), self.k, self.v)
        self.assertEqual(ticket.out.shape, self.q.shape)
        gc.collect()
        self.assertEqual(freed, [ctypes.addressof(managed)])
        self.refused(seerattn.InvalidArgumentError, "out is read-only", out=Producer())
        managed.dl_tensor.dtype = _dlpack._DLDataType(2, 64, 1)
        self.refused(seerattn.DTypeError, "64 bits", q=Producer())
        managed.major = 2
        self.refused(seerattn.InvalidArgumentError, "version 2", q=Producer())

    def test_errors_pickle(self):
        error = self.refused(seerattn.ShapeError, "", k=problem(keys=20)[1])
        again = pickle.loads(pickle.dumps(error))
        self.assertEqual((type(again), str(again)), (type(error), str(error)))
        absent = seerattn.FileError("x: not there")
        self.assertEqual(str(pickle.loads(pickle.dumps(absent))), "SEER_ERROR_IO: x: not there")


if __name__ == "__main__":
    unittest.main()
