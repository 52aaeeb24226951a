//! Running operations: waiting for them, in a scope, or freely.
//!
//! What must outlive an operation in flight (closures, cancel flags, owners of memory) lies in a `Work`, which belongs
//! to the ticket: the library's completion callback takes it down. Forgetting a `Pending` therefore frees nothing
//! early. A scope ends when the callbacks of all its operations have ended, for they drop closures that may borrow.
use crate::callback::{contain, lock, Panic, Progress};
use crate::cancel::Cancel;
use crate::context::Context;
use crate::error::{check, Error, Result, Status};
use crate::operations::sealed::Extras;
use crate::operations::Operation;
use crate::sys;
use crate::tensor::Owner;
use std::future::Future;
use std::marker::PhantomData;
use std::os::raw::c_void;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{self, Poll, Waker};
use std::time::Duration;

const FOR_EVER: u64 = u64::MAX;

/// What an operation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks attended to, over batch, heads and rows; 0 in operations that do not select.
    pub blocks_kept: u64,
    /// Blocks of the causal triangle.
    pub blocks_causal: u64,
    /// Rows that would have kept nothing and kept their diagonal block.
    pub fallback_rows: u64,
    /// Memory taken beyond the tensors.
    pub workspace_bytes: u64,
    /// The whole operation on the device; the stages below need not add up to it.
    pub device: Duration,
    /// Pool, project, score and select.
    pub gate: Duration,
    /// Attend.
    pub attend: Duration,
}

impl Stats {
    /// Blocks kept over blocks of the causal triangle; 0 where nothing was selected.
    pub fn density(&self) -> f64 {
        if self.blocks_causal == 0 {
            0.0
        } else {
            self.blocks_kept as f64 / self.blocks_causal as f64
        }
    }

    fn of(ctx: &Context, ticket: sys::seer_ticket) -> Result<Self> {
        let mut raw = sys::seer_stats::default();
        // SAFETY: the handle lives, `raw` may be written and says its size.
        check(unsafe { sys::seer_ticket_stats(ctx.as_ptr(), ticket, &mut raw) })?;
        Ok(Stats {
            blocks_kept: raw.blocks_kept,
            blocks_causal: raw.blocks_causal,
            fallback_rows: raw.fallback_rows,
            workspace_bytes: raw.workspace_bytes,
            device: Duration::from_nanos(raw.device_ns),
            gate: Duration::from_nanos(raw.gate_ns),
            attend: Duration::from_nanos(raw.attend_ns),
        })
    }
}

impl Context {
    /// Computes and waits. With [`Status::Cancelled`], outputs are unspecified; after other errors they are, as a rule,
    /// untouched.
    pub fn run<'t>(&self, operation: impl Operation<'t>) -> Result<Stats> {
        let mut operation = operation;
        let extras = operation.take_extras(self)?;
        let progress = extras.progress.map(Progress::new);
        let submit = submission(sys::SEER_SUBMIT_BLOCKING, progress.as_ref(), extras.cancel.as_ref());
        let mut ticket = 0;
        // SAFETY: blocking, so what the operation borrows, and what is on this stack, outlives the work.
        let result = check(unsafe { operation.call(self.as_ptr(), &submit, &mut ticket) });
        if let Some(progress) = &progress {
            progress.resume();
        }
        result?;
        Stats::of(self, ticket)
    }

    /// Runs `body`, in which [`Scope::submit`] starts operations on borrowed memory without waiting for them; waits for
    /// all of them before it returns, also if `body` panics.
    ///
    /// Errors come from [`Pending::wait`]: that of an operation which nobody waits for is lost.
    ///
    /// ```no_run
    /// # use seerattn::{Backend, Context, Model, Prefill, TensorMut, TensorRef};
    /// # fn main() -> seerattn::Result<()> {
    /// # let (ctx, model) = (Context::new(Backend::Auto)?, Model::load(&Context::new(Backend::Auto)?, "")?);
    /// # let (data, shape) = (vec![0f32; 8192], [1, 64, 1, 128]);
    /// # let mut outputs = vec![vec![0f32; 8192]; 4];
    /// # let input = || TensorRef::new(&data, &shape);
    /// ctx.scope(|scope| {
    ///     let mut pending = Vec::new();
    ///     for (layer, out) in outputs.iter_mut().enumerate() {
    ///         let out = TensorMut::new(out, &shape);
    ///         pending.push(scope.submit(Prefill::new(&model, layer, input(), input(), input(), out))?);
    ///     }
    ///     pending.into_iter().try_for_each(|p| p.wait().map(drop))
    /// })
    /// # }
    /// ```
    ///
    /// Memory must outlive the scope, so what `body` makes itself cannot be used:
    ///
    /// ```compile_fail,E0597
    /// # use seerattn::{Context, Model, Prefill, Result, TensorMut, TensorRef};
    /// fn dangling(ctx: &Context, model: &Model, data: &[f32]) -> Result<()> {
    ///     let shape = [1, 64, 1, 128];
    ///     let x = || TensorRef::new(data, &shape);
    ///     ctx.scope(|scope| {
    ///         let mut out = vec![0f32; 8192]; // dropped when the body ends, and the work goes on
    ///         let _ = scope.submit(Prefill::new(model, 0, x(), x(), x(), TensorMut::new(&mut out, &shape)))?;
    ///         Ok(())
    ///     })
    /// }
    /// ```
    pub fn scope<'env, T>(&self, body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
        /// Waits when it goes out of scope, also while a panic unwinds.
        struct Join(Arc<Group>);
        impl Drop for Join {
            fn drop(&mut self) {
                self.0.join();
            }
        }
        let group = Arc::<Group>::default();
        let scope = Scope { ctx: self.clone(), group: group.clone(), life: PhantomData, env: PhantomData };
        let _join = Join(group);
        body(&scope)
    }

    /// Starts an operation and returns at once. All its memory is owned: tensors of a [`Buffer`](crate::Buffer) or
    /// [`TensorRef::shared`](crate::TensorRef::shared).
    ///
    /// ```no_run
    /// # use seerattn::{Backend, Buffer, Context, Model, Prefill, Stats};
    /// # async fn f(ctx: Context, model: Model, q: Buffer, k: Buffer, v: Buffer, out: Buffer) ->
    /// seerattn::Result<Stats> { let shape = [1, 4096, 8, 128];
    /// let (q, k, v) = (q.tensor::<f32>(&shape), k.tensor::<f32>(&shape), v.tensor::<f32>(&shape));
    /// let stats = ctx.submit(Prefill::new(&model, 0, q, k, v, out.tensor_mut::<f32>(&shape)))?.await?;
    /// # Ok(stats)
    /// # }
    /// ```
    ///
    /// Borrowed memory is refused by the compiler:
    ///
    /// ```compile_fail,E0597
    /// # use seerattn::{Buffer, Context, Model, Pending, Prefill, Result, TensorRef};
    /// fn dangling(ctx: &Context, model: &Model, k: &Buffer, out: &Buffer) -> Result<Pending> {
    ///     let q = vec![0f32; 8192];
    ///     let shape = [1, 64, 1, 128];
    ///     let tensor = TensorRef::new(&q, &shape);
    ///     let (k, v) = (k.tensor::<f32>(&shape), k.tensor::<f32>(&shape));
    ///     ctx.submit(Prefill::new(model, 0, tensor, k, v, out.tensor_mut::<f32>(&shape)))
    /// }
    /// ```
    pub fn submit(&self, operation: impl Operation<'static>) -> Result<Pending> {
        // SAFETY: what outlives the call is 'static.
        unsafe { enqueue(self, operation, None) }
    }

    /// Waits until everything submitted so far is done, however it went.
    pub fn wait_all(&self) -> Result<()> {
        // SAFETY: the handle lives.
        check(unsafe { sys::seer_wait(self.as_ptr(), sys::SEER_TICKET_ALL, FOR_EVER) })
    }
}

fn submission(flags: u32, progress: Option<&Progress<'_>>, cancel: Option<&Cancel>) -> sys::seer_submit {
    let (progress, progress_user) = Progress::raw(progress);
    let cancel = cancel.map_or(ptr::null_mut(), Cancel::as_ptr);
    sys::seer_submit { flags, cancel, progress, progress_user, ..Default::default() }
}

// ---- Scopes ---------------------------------------------------------------------------------------------------------

/// Starts operations on memory that outlives `'scope`; see [`Context::scope`].
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    ctx: Context,
    group: Arc<Group>,
    // Both invariant, as in `std::thread::Scope`: a longer 'scope would let borrows end before the wait.
    life: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope> Scope<'scope, '_> {
    /// Starts an operation and returns at once.
    pub fn submit(&'scope self, operation: impl Operation<'scope>) -> Result<Pending> {
        // SAFETY: the scope waits for the group before 'scope ends.
        unsafe { enqueue(&self.ctx, operation, Some(self.group.clone())) }
    }
}

/// How many operations of a scope have not come to their end.
#[derive(Debug, Default)]
struct Group {
    open: Mutex<usize>,
    none: Condvar,
}

impl Group {
    fn begin(&self) {
        *lock(&self.open) += 1;
    }

    fn end(&self) {
        let mut open = lock(&self.open);
        *open -= 1;
        if *open == 0 {
            self.none.notify_all();
        }
    }

    fn join(&self) {
        let mut open = lock(&self.open);
        while *open > 0 {
            open = self.none.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

// ---- Tickets --------------------------------------------------------------------------------------------------------

/// What a ticket's owner and its completion share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    status: Option<sys::seer_status>,
    panic: Option<Panic>,
    waker: Option<Waker>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("status", &self.status).finish_non_exhaustive()
    }
}

/// What must live as long as the work is in flight.
struct Work<'t> {
    shared: Arc<Shared>,
    group: Option<Arc<Group>>,
    progress: Option<Progress<'t>>,
    cancel: Option<Cancel>,
    owners: Vec<Owner>,
}

/// # Safety
/// The memory of the operation's borrowed tensors, and what its closures borrow, outlives the work.
unsafe fn enqueue<'t>(ctx: &Context, operation: impl Operation<'t>, group: Option<Arc<Group>>) -> Result<Pending> {
    let mut operation = operation;
    let Extras { owners, cancel, progress } = operation.take_extras(ctx)?;
    let shared = Arc::<Shared>::default();
    let progress = progress.map(Progress::new);
    let work = Box::into_raw(Box::new(Work { shared: shared.clone(), group, progress, cancel, owners }));
    let mut ticket = 0;
    // SAFETY: `work` stays where it is until `finish`; what the operation borrows is the caller's promise.
    let status = unsafe {
        let submit = submission(0, (*work).progress.as_ref(), (*work).cancel.as_ref());
        operation.call(ctx.as_ptr(), &submit, &mut ticket)
    };
    if status < 0 {
        let error = Error::last(status);
        // SAFETY: the library has not taken it.
        drop(unsafe { Box::from_raw(work) });
        return Err(error);
    }
    // SAFETY: as above; from here on `on_done` owns `work`.
    unsafe {
        if let Some(group) = &(*work).group {
            group.begin();
        }
        if sys::seer_on_done(ctx.as_ptr(), ticket, Some(on_done), work.cast()) < 0 {
            // There was no memory for it: take its part.
            let status = sys::seer_wait(ctx.as_ptr(), ticket, FOR_EVER);
            finish(work, status);
        }
    }
    Ok(Pending { ctx: ctx.clone(), ticket, shared })
}

unsafe extern "C" fn on_done(user: *mut c_void, _ticket: sys::seer_ticket, status: sys::seer_status) {
    // SAFETY: `enqueue` gave it, once.
    unsafe { finish(user.cast(), status) }
}

/// Takes the work down, then tells those who wait, the scope last.
///
/// # Safety
/// `work` is from `Box::into_raw`, the work is done, and nobody else does this. The lifetime of `Work` may have any
/// name: what is inside is good until the group ends.
unsafe fn finish(work: *mut Work<'_>, status: sys::seer_status) {
    // SAFETY: the caller's promise.
    let Work { shared, group, progress, cancel, owners } = *unsafe { Box::from_raw(work) };
    let panic = progress.as_ref().and_then(Progress::take_panic);
    contain(|| drop(progress));
    contain(|| drop(owners));
    drop(cancel);
    let waker = {
        let mut state = lock(&shared.state);
        state.status = Some(status);
        state.panic = panic;
        state.waker.take()
    };
    shared.done.notify_all();
    contain(|| waker.into_iter().for_each(Waker::wake));
    contain(|| drop(shared));
    if let Some(group) = group {
        group.end();
    }
}

/// An operation in flight: wait for it, or `await` it. Dropping it neither waits nor cancels.
///
/// The library keeps the outcome of the last 4096 operations of a context. Of older ones the status is still known
/// here, but not its text nor the statistics.
#[derive(Debug)]
#[must_use = "the outcome of the operation is lost unless it is waited for"]
pub struct Pending {
    ctx: Context,
    ticket: sys::seer_ticket,
    shared: Arc<Shared>,
}

impl Pending {
    /// Waits for the outcome. A panic of the operation's progress closure goes on here.
    pub fn wait(self) -> Result<Stats> {
        // SAFETY: the handle lives.
        let status = unsafe { sys::seer_wait(self.ctx.as_ptr(), self.ticket, FOR_EVER) };
        if status == sys::SEER_ERROR_BUSY {
            return Err(Error::last(status)); // in a callback, where waiting for another one could last for ever
        }
        let mut state = lock(&self.shared.state);
        while state.status.is_none() {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.outcome()
    }

    /// Waits at most so long; tells whether it is done.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let state = lock(&self.shared.state);
        let wait = self.shared.done.wait_timeout_while(state, timeout, |state| state.status.is_none());
        wait.unwrap_or_else(PoisonError::into_inner).0.status.is_some()
    }

    /// Whether it is done, so that `wait` would not block.
    pub fn is_done(&self) -> bool {
        lock(&self.shared.state).status.is_some()
    }

    /// Of an operation that is done.
    fn outcome(&self) -> Result<Stats> {
        let (status, panic) = {
            let mut state = lock(&self.shared.state);
            (state.status.unwrap_or(sys::SEER_ERROR_INTERNAL), state.panic.take())
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        if status >= 0 {
            return Stats::of(&self.ctx, self.ticket);
        }
        // SAFETY: the handle lives. This brings the text into this thread.
        let again = unsafe { sys::seer_wait(self.ctx.as_ptr(), self.ticket, 0) };
        if again == status {
            return Err(Error::last(status));
        }
        Err(Error::new(Status::from_code(status), "what went wrong is kept for the next 4096 operations only"))
    }
}

impl Future for Pending {
    type Output = Result<Stats>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.shared.state);
        if state.status.is_none() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(self.outcome())
    }
}
