"""Tickets, cancelling, callbacks, threads, and the end of the interpreter."""

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import unittest
import weakref

import seerattn
from support import WithContext, problem, small_gates

LONG = dict(tokens=4000, heads=8, kv_heads=1, dim=32)  # some tens of milliseconds of attention


def run_script(text, **options):
    """Of Python, in a new process with this one's environment."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], env=environment, capture_output=True, text=True, timeout=120, **options
    )


class Tickets(WithContext):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gates = small_gates(cls.ctx, heads=8)
        cls.long = problem(**LONG)

    def start(self, **options):
        return self.ctx.prefill(self.gates, 0, *self.long, wait=False, **options)

    def test_waiting(self):
        blocking = self.ctx.prefill(self.gates, 0, *self.long)
        ticket = self.start()
        self.assertFalse(ticket.done())
        with self.assertRaises(TimeoutError):
            ticket.wait(timeout=1e-6)
        self.assertIn("in flight", repr(ticket))
        self.assertIs(ticket.wait(), ticket)
        self.assertTrue(ticket.done())
        self.assertEqual(ticket.out.tobytes(), blocking.out.tobytes())
        self.assertEqual(ticket.stats.blocks_kept, blocking.stats.blocks_kept)
        self.assertLess(blocking.number, ticket.number)

    def test_tensors_are_held_until_done(self):
        long = problem(**LONG)
        out = seerattn.Tensor.empty(long[0].shape, "F32")
        held = [weakref.ref(x) for x in (*long, out)]
        ticket = self.ctx.prefill(self.gates, 0, *long, out=out, wait=False)
        del long, out
        number = ticket.number
        del ticket  # nobody waits
        gc.collect()
        self.assertEqual([ref() is None for ref in held], [False] * 4)
        self.ctx.sync()
        gc.collect()
        self.assertEqual([ref() is None for ref in held], [True] * 4)
        self.assertGreater(number, 0)

    def test_a_dropped_context_finishes_first(self):
        ctx = seerattn.Context("cpu", threads=2)
        gates = small_gates(ctx, heads=8)
        ticket = ctx.prefill(gates, 0, *self.long, wait=False)
        ref = weakref.ref(ctx)
        ctx.close()
        self.assertTrue(ticket.done())
        self.assertEqual(ticket.stats.fallback_rows, 0)
        del ctx, ticket
        gc.collect()
        self.assertIsNone(ref())

    def test_cancel(self):
        cancel = seerattn.Cancel()
        ticket = self.start(cancel=cancel)
        cancel.trigger()
        cancel.close()  # the call holds it
        with self.assertRaises(seerattn.CancelledError):
            ticket.wait()
        with self.assertRaises(seerattn.CancelledError):  # the outcome stays
            ticket.stats
        self.assertIn("failed", repr(ticket))
        late = seerattn.Cancel()
        late.trigger()
        with self.assertRaises(seerattn.CancelledError):
            self.ctx.prefill(self.gates, 0, *self.long, cancel=late)

    def test_cancel_from_another_thread_while_blocking(self):
        cancel = seerattn.Cancel()
        timer = threading.Timer(0.05, cancel.trigger)
        timer.start()
        with self.assertRaises(seerattn.CancelledError):
            for _ in range(200):
                self.ctx.prefill(self.gates, 0, *self.long, cancel=cancel)
        timer.join()

    def test_progress(self):
        seen = []
        self.ctx.prefill(self.gates, 0, *self.long, progress=lambda done, total: seen.append((done, total)))
        self.assertEqual(seen[-1][0], seen[-1][1])
        with self.assertRaises(seerattn.CancelledError):
            self.ctx.prefill(self.gates, 0, *self.long, progress=lambda done, total: True)

        def broken(done, total):
            raise KeyError("mine")

        with self.assertRaisesRegex(KeyError, "mine"):
            self.ctx.prefill(self.gates, 0, *self.long, progress=broken)

    def test_done_callbacks(self):
        event, seen = threading.Event(), []

        def callback(ticket):
            try:
                ticket.done()
            except seerattn.SeerError as error:
                seen.append(error)
            event.set()

        ticket = self.start()
        ticket.add_done_callback(callback)
        self.assertTrue(event.wait(60))
        self.assertIsInstance(seen[0], seerattn.BusyError)
        event.clear()
        ticket.wait().add_done_callback(lambda _: event.set())
        self.assertTrue(event.wait(60))

    def test_callbacks_that_raise_are_reported(self):
        reported, event = [], threading.Event()

        def hook(arguments):
            reported.append((arguments.exc_type, str(arguments.exc_value)))
            event.set()

        def broken(_):
            raise KeyError("mine")

        before, sys.unraisablehook = sys.unraisablehook, hook
        try:
            self.start().add_done_callback(broken)
            self.assertTrue(event.wait(60))
        finally:
            sys.unraisablehook = before
        self.assertEqual(reported, [(KeyError, "'mine'")])

    def test_await(self):
        async def main():
            cancel = seerattn.Cancel()
            first, second = self.start(), self.start(cancel=cancel)
            cancel.trigger()
            done = await first
            with self.assertRaises(seerattn.CancelledError):
                await second
            return done

        self.assertIsNotNone(asyncio.run(main()).stats)

    @unittest.skipUnless(hasattr(signal, "setitimer"), "needs setitimer")
    def test_interrupts_cancel(self):
        class Interrupted(Exception):
            pass

        def handler(*_):
            raise Interrupted

        before, cancel = signal.signal(signal.SIGALRM, handler), seerattn.Cancel()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with self.assertRaises(Interrupted):
                while True:
                    self.ctx.prefill(self.gates, 0, *self.long, cancel=cancel)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with self.assertRaises(seerattn.CancelledError):  # it was triggered
            self.ctx.prefill(self.gates, 0, *self.long, cancel=cancel)
        self.ctx.prefill(self.gates, 0, *self.long)

    def test_threads_share_everything(self):
        wanted = self.ctx.prefill(self.gates, 0, *self.long).out.tobytes()
        small, failures = problem(heads=8), []
        cache = seerattn.GateCache(self.ctx, self.gates, 256)

        def work(number):
            try:
                for turn in range(2):
                    if number % 2:
                        assert self.ctx.prefill(self.gates, 0, *self.long).out.tobytes() == wanted
                    else:
                        for _ in range(20):
                            cache.truncate(0)
                            try:
                                self.ctx.prefill(self.gates, 0, *small, cache=cache, wait=bool(turn % 2))
                            except seerattn.CacheStateError:
                                pass  # another thread's call came between
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])

    def test_closing_while_others_call(self):
        for _ in range(3):
            ctx = seerattn.Context("cpu", threads=2)
            gates = small_gates(ctx, heads=8)
            surprises, stopped = [], threading.Barrier(4)

            def work():
                try:
                    while True:
                        ctx.prefill(gates, 0, *self.long, wait=False).wait()
                except seerattn.HandleError:
                    pass
                except BaseException as error:
                    surprises.append(error)
                stopped.wait(60)

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            ctx.close()
            gates.close()
            stopped.wait(60)
            for thread in threads:
                thread.join()
            self.assertEqual(surprises, [])


class Logging(unittest.TestCase):
    def test_functions_and_loggers(self):
        seen = []
        ctx = seerattn.Context("cpu", threads=1, log=lambda level, text: seen.append((level, text)), log_level=4)
        ctx.attention(*problem())
        ctx.close()
        self.assertTrue(seen)
        self.assertIsInstance(seen[0][1], str)
        with self.assertLogs("seer-test", logging.DEBUG) as logs:
            logger = logging.getLogger("seer-test")
            with seerattn.Context("cpu", threads=1, log=logger, log_level=seerattn.LogLevel.DEBUG) as ctx:
                ctx.attention(*problem())
        self.assertTrue(logs.output)
        from seerattn import _ticket

        self.assertEqual([f for f in _ticket._registry.values() if f == seen.append], [])


class Processes(unittest.TestCase):
    @unittest.skipUnless(hasattr(os, "fork"), "needs fork")
    def test_fork(self):
        done = run_script(
            """
            import os, seerattn, warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 dislikes every fork with threads
            from support import problem, small_gates
            ctx = seerattn.Context("cpu", threads=2)
            gates = small_gates(ctx)
            q, k, v = problem()
            wanted = ctx.prefill(gates, 0, q, k, v).out.tobytes()
            pid = os.fork()
            if pid == 0:
                try:
                    ctx.prefill(gates, 0, q, k, v)
                except seerattn.DeviceLostError as error:
                    assert isinstance(error, RuntimeError)
                else:
                    os._exit(3)
                mine = seerattn.Context("cpu", threads=2)
                if mine.prefill(small_gates(mine), 0, q, k, v).out.tobytes() != wanted:
                    os._exit(4)
                raise SystemExit(0)  # the interpreter's own exit, with the parent's objects alive
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            assert ctx.prefill(gates, 0, q, k, v).out.tobytes() == wanted
            """
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "0\n", ""))

    def test_exit_with_work_in_flight(self):
        done = run_script(
            """
            import seerattn, threading
            from support import problem, small_gates
            ctx = seerattn.Context("cpu", threads=2, log=lambda level, text: None, log_level=4)
            gates = small_gates(ctx, heads=8)
            for _ in range(3):
                ticket = ctx.prefill(gates, 0, *problem(tokens=3000, heads=8), wait=False, progress=lambda d, t: False)
                ticket.add_done_callback(lambda t: None)
            print("bye")
            """
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "bye\n", ""))

    def test_no_library(self):
        done = run_script(
            """
            import os
            os.environ["SEERATTN_LIB"] = "/nowhere/libseerattn.so.0"
            import seerattn
            try:
                seerattn.version()
            except ImportError as error:
                print(error)
            """
        )
        self.assertRegex(done.stdout, "libseerattn was not found.*SEERATTN_LIB")

    def test_another_library(self):
        done = run_script(
            """
            import ctypes.util, os
            os.environ["SEERATTN_LIB"] = ctypes.util.find_library("c")
            import seerattn
            try:
                seerattn.version()
            except ImportError as error:
                print(error)
            """
        )
        self.assertIn("has no function seer_version", done.stdout)


if __name__ == "__main__":
    unittest.main()
