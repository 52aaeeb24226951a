//! Work that outlives the call that started it.
use crate::case::{Case, Values};
use crate::cpu;
use seerattn::{Attention, Buffer, Cancel, Context, GateCache, Model, Pending, Prefill, Status, TensorMut, TensorRef};
use std::future::Future;
use std::ops::ControlFlow;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Poll, Wake};
use std::time::Duration;

const SHAPE: [usize; 4] = [1, 2048, 4, 64];
const COUNT: usize = 2048 * 4 * 64;

fn noise() -> Vec<f32> {
    (0..COUNT as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 20) as f32 / 4096.0 - 0.5).collect()
}

fn dense(ctx: &Context, x: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; COUNT];
    let input = || TensorRef::new(x, &SHAPE);
    ctx.run(Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE))).unwrap();
    out
}

/// Attention on buffers, all of it owned.
fn submit(ctx: &Context, x: &Buffer, out: &Buffer) -> Pending {
    let input = || x.tensor::<f32>(&SHAPE);
    ctx.submit(Attention::new(input(), input(), input(), out.tensor_mut::<f32>(&SHAPE))).unwrap()
}

#[test]
fn scope_waits() {
    let (ctx, x) = (cpu(), noise());
    let want = dense(&ctx, &x);
    let mut outs = vec![vec![0f32; COUNT]; 3];
    let calls = AtomicUsize::new(0);
    ctx.scope(|scope| {
        for out in &mut outs {
            let input = || TensorRef::new(&x, &SHAPE);
            let operation = Attention::new(input(), input(), input(), TensorMut::new(out, &SHAPE)).progress(|_, _| {
                calls.fetch_add(1, Ordering::Relaxed);
                ControlFlow::Continue(())
            });
            drop(scope.submit(operation).unwrap()); // the scope waits all the same
        }
    });
    assert!(outs.iter().all(|out| out == &want));
    assert!(calls.load(Ordering::Relaxed) >= 3);
}

#[test]
fn scope_waits_when_its_body_panics() {
    let (ctx, x) = (cpu(), noise());
    let mut out = vec![0f32; COUNT];
    let panic = catch_unwind(AssertUnwindSafe(|| {
        ctx.scope(|scope| {
            let input = || TensorRef::new(&x, &SHAPE);
            let _pending = scope.submit(Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE)));
            resume_unwind(Box::new("in the body"));
        })
    }));
    assert_eq!(*panic.unwrap_err().downcast::<&str>().unwrap(), "in the body");
    assert_eq!(out, dense(&ctx, &x));
}

/// Threads of a scope may share it.
#[test]
fn scope_of_threads() {
    let (ctx, x) = (cpu(), noise());
    let want = dense(&ctx, &x);
    let mut outs = vec![vec![0f32; COUNT]; 3];
    ctx.scope(|scope| {
        std::thread::scope(|threads| {
            for out in &mut outs {
                let x = &x;
                threads.spawn(move || {
                    let input = || TensorRef::new(x, &SHAPE);
                    scope.submit(Attention::new(input(), input(), input(), TensorMut::new(out, &SHAPE))).unwrap().wait()
                });
            }
        });
    });
    assert!(outs.iter().all(|out| out == &want));
}

/// Chunks may be submitted one behind the other: the cache is borrowed only while they are.
#[test]
fn chunks_in_a_scope() {
    let (ctx, case) = (cpu(), Case::named("llama-threshold"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let tokens = q.shape[1];
    let select = model.config().unwrap().select.last_dense_rows(2);
    let mut want = Values::zeros(&q.shape);
    ctx.run(Prefill::new(&model, case.layer, q.tensor(), k.tensor(), v.tensor(), want.tensor_mut()).select(select))
        .unwrap();

    let mut cache = GateCache::new(&ctx, &model, 1, tokens).unwrap();
    let mut out = Values::zeros(&q.shape);
    let per_token = q.shape[2] * q.shape[3];
    ctx.scope(|scope| {
        let mut pending = Vec::new();
        for (i, out) in out.data.chunks_mut(256 * per_token).enumerate() {
            let rows = [1, out.len() / per_token, q.shape[2], q.shape[3]];
            let keys = [1, i * 256 + rows[1], k.shape[2], k.shape[3]];
            let operation = Prefill::new(
                &model,
                case.layer,
                TensorRef::new(&q.data[i * 256 * per_token..], &rows),
                TensorRef::new(&k.data, &keys),
                TensorRef::new(&v.data, &keys),
                TensorMut::new(out, &rows),
            );
            pending.push(scope.submit(operation.select(select).cache(&mut cache).total_len(tokens))?);
        }
        assert_eq!(cache.tokens(case.layer, 0)?, tokens); // submitted work included
        pending.into_iter().try_for_each(|p| p.wait().map(drop))
    })
    .unwrap();
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5 * (1.0 + b.abs());
    assert!(out.data.iter().zip(&want.data).all(close));
}

#[test]
fn submitted_work_owns_its_memory() {
    let (ctx, x) = (cpu(), noise());
    let want = dense(&ctx, &x);
    let input = Buffer::from_slice(&ctx, &x).unwrap();
    let out = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
    let pending = submit(&ctx, &input, &out);
    drop(input); // the work keeps it
    let stats = pending.wait().unwrap();
    assert!(stats.device > Duration::ZERO && stats.attend <= stats.device);
    let mut got = vec![0f32; COUNT];
    out.read(0, &mut got).unwrap();
    assert_eq!(got, want);

    // Host memory in an Arc is let go of when the work is done, and not before.
    let shared = Arc::new(x);
    let input = || TensorRef::shared::<f32, _>(shared.clone(), &SHAPE);
    let pending = ctx.submit(Attention::new(input(), input(), input(), out.tensor_mut::<f32>(&SHAPE))).unwrap();
    pending.wait().unwrap();
    assert!(Arc::try_unwrap(shared).is_ok());
}

/// What a forgotten or dropped `Pending` leaves behind is freed all the same, in the background.
#[test]
fn forgotten() {
    struct Memory(Vec<f32>, Arc<AtomicBool>);
    impl AsRef<[f32]> for Memory {
        fn as_ref(&self) -> &[f32] {
            &self.0
        }
    }
    impl Drop for Memory {
        fn drop(&mut self) {
            self.1.store(true, Ordering::SeqCst);
        }
    }
    let freed = Arc::new(AtomicBool::new(false));
    let (first, running) = (AtomicBool::new(true), Arc::new(Barrier::new(2)));
    let hold = running.clone();
    {
        let ctx = cpu();
        let memory = Arc::new(Memory(noise(), freed.clone()));
        let out = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
        let input = || TensorRef::shared::<f32, _>(memory.clone(), &SHAPE);
        let operation = Attention::new(input(), input(), input(), out.tensor_mut::<f32>(&SHAPE));
        let pending = ctx.submit(operation.progress(move |_, _| {
            if first.swap(false, Ordering::SeqCst) {
                hold.wait();
                hold.wait();
            }
            ControlFlow::Continue(())
        }));
        std::mem::forget(pending.unwrap());
    }
    running.wait();
    assert!(!freed.load(Ordering::SeqCst)); // it runs, and nothing but itself holds its memory
    running.wait();
    for _ in 0..1000 {
        if freed.load(Ordering::SeqCst) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the memory was not freed within ten seconds");
}

/// A waker that wakes the thread that polls.
struct Thread(std::thread::Thread);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = Box::pin(future);
    let waker = Arc::new(Thread(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn awaited() {
    let (ctx, x) = (cpu(), noise());
    let input = Buffer::from_slice(&ctx, &x).unwrap();
    let outs: Vec<Buffer> = (0..3).map(|_| Buffer::new(&ctx, 4 * COUNT as u64).unwrap()).collect();
    let pending: Vec<Pending> = outs.iter().map(|out| submit(&ctx, &input, out)).collect();
    block_on(async {
        for p in pending {
            assert!(p.await.unwrap().device > Duration::ZERO);
        }
    });
    let want = dense(&ctx, &x);
    for out in outs {
        let mut got = vec![0f32; COUNT];
        out.read(0, &mut got).unwrap();
        assert_eq!(got, want);
    }
}

/// The error of work in flight, with its text, in another thread than the one that submitted it.
#[test]
fn cancelled_in_flight() {
    let (ctx, x) = (cpu(), noise());
    let cancel = Cancel::new().unwrap();
    let started = Arc::new(Barrier::new(2));
    let input = Buffer::from_slice(&ctx, &x).unwrap();
    let out = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
    let (first, barrier) = (AtomicBool::new(true), started.clone());
    let tensor = || input.tensor::<f32>(&SHAPE);
    let operation = Attention::new(tensor(), tensor(), tensor(), out.tensor_mut::<f32>(&SHAPE)).cancel(&cancel);
    let pending = ctx
        .submit(operation.progress(move |_, _| {
            if first.swap(false, Ordering::SeqCst) {
                barrier.wait(); // in flight
                barrier.wait(); // cancelled
            }
            ControlFlow::Continue(())
        }))
        .unwrap();
    started.wait();
    assert!(!pending.is_done() && !pending.wait_timeout(Duration::from_millis(1)));
    cancel.trigger();
    drop(cancel); // the work keeps the flag
    started.wait();
    let error = std::thread::spawn(move || pending.wait()).join().unwrap().unwrap_err();
    assert_eq!(error.status(), Status::Cancelled);
    assert!(!error.detail().is_empty() && !error.detail().contains("4096"), "{error}");

    let after = submit(&ctx, &input, &out);
    assert!(after.wait_timeout(Duration::from_secs(60)) && after.is_done());
    after.wait().unwrap();
}

/// The library forgets what became of old work; the status is known all the same.
#[test]
fn waited_for_late() {
    let ctx = cpu();
    let cancel = Cancel::new().unwrap();
    cancel.trigger();
    let buffer = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
    let tensor = |tokens| buffer.tensor::<f32>(&[1, tokens, 1, 64]);
    let operation = |tokens| {
        let out = buffer.tensor_mut::<f32>(&[1, tokens, 1, 64]).with_offset(2 * COUNT as u64);
        Attention::new(tensor(tokens), tensor(tokens), tensor(tokens), out)
    };
    let old = ctx.submit(operation(64).cancel(&cancel)).unwrap();
    for _ in 0..5000 {
        ctx.run(operation(0)).unwrap();
    }
    let error = old.wait().unwrap_err();
    assert_eq!(error.status(), Status::Cancelled);
    assert!(error.detail().contains("4096"), "{error}");
}

/// A closure's panic cancels the work and goes on where it is waited for.
#[test]
fn panics_in_progress() {
    let (ctx, x) = (cpu(), noise());
    let input = Buffer::from_slice(&ctx, &x).unwrap();
    let out = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
    let operation = || {
        let tensor = || input.tensor::<f32>(&SHAPE);
        Attention::new(tensor(), tensor(), tensor(), out.tensor_mut::<f32>(&SHAPE))
            .progress(|_, _| resume_unwind(Box::new("in progress")))
    };
    let text = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<&str>().unwrap();
    let waited = catch_unwind(AssertUnwindSafe(|| ctx.run(operation())));
    assert_eq!(text(waited.unwrap_err()), "in progress");
    let pending = ctx.submit(operation()).unwrap();
    assert_eq!(text(catch_unwind(AssertUnwindSafe(|| pending.wait())).unwrap_err()), "in progress");
    let pending = ctx.submit(operation()).unwrap();
    assert_eq!(text(catch_unwind(AssertUnwindSafe(|| block_on(pending))).unwrap_err()), "in progress");
    ctx.wait_all().unwrap();
}

/// A failed submission leaves nothing behind: the scope ends, the closure is dropped.
#[test]
fn refused_submissions() {
    let (ctx, x) = (cpu(), noise());
    let guard = Arc::new(());
    let held = guard.clone();
    let mut out = vec![0f32; 16];
    let status = ctx.scope(|scope| {
        let input = || TensorRef::new(&x, &SHAPE);
        let operation = Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE));
        let refused = scope.submit(operation.progress(move |_, _| {
            let _ = &held;
            ControlFlow::Continue(())
        }));
        refused.unwrap_err().status()
    });
    assert_eq!(status, Status::OutOfBounds);
    assert_eq!(Arc::strong_count(&guard), 1);
}

#[test]
fn contexts_from_many_threads() {
    let (ctx, x) = (cpu(), noise());
    let want = dense(&ctx, &x);
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| assert_eq!(dense(&ctx, &x), want));
        }
    });
}

fn send_and_sync<T: Send + Sync>() {}
fn send<T: Send>() {}

#[test]
fn markers() {
    send_and_sync::<Context>();
    send_and_sync::<Model>();
    send_and_sync::<Buffer>();
    send_and_sync::<Cancel>();
    send_and_sync::<Pending>();
    send_and_sync::<TensorRef<'_>>();
    send_and_sync::<TensorMut<'_>>();
    send_and_sync::<seerattn::Scope<'_, '_>>();
    send_and_sync::<seerattn::Error>();
    send::<GateCache>();
}
