//! Closures behind C function pointers. No panic leaves them: it is kept for the thread that waits, or dropped.
use crate::context::LogLevel;
use crate::sys;
use std::any::Any;
use std::ops::ControlFlow;
use std::os::raw::{c_char, c_void};
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) type Panic = Box<dyn Any + Send>;
pub(crate) type ProgressFn<'t> = Box<dyn Fn(u64, u64) -> ControlFlow<()> + Send + Sync + 't>;
pub(crate) type LogFn = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// A lock that panics elsewhere do not spoil: what it guards is whole at all times.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the caller's code where a panic has nowhere to go.
pub(crate) fn contain(run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        drop_panic(panic);
    }
}

/// What a panic carries may panic when it is dropped; what that panic carries is leaked.
fn drop_panic(panic: Panic) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}

/// A progress closure and what came of it.
pub(crate) struct Progress<'t> {
    call: ProgressFn<'t>,
    panic: Mutex<Option<Panic>>,
}

impl<'t> Progress<'t> {
    pub fn new(call: ProgressFn<'t>) -> Self {
        Progress { call, panic: Mutex::new(None) }
    }

    /// The function and the user data that the library gets; `this` must live until the work is done.
    pub fn raw(this: Option<&Self>) -> (sys::seer_progress_fn, *mut c_void) {
        match this {
            Some(progress) => (Some(on_progress), progress as *const Self as *mut c_void),
            None => (None, std::ptr::null_mut()),
        }
    }

    /// The first panic of the closure, if it panicked.
    pub fn take_panic(&self) -> Option<Panic> {
        lock(&self.panic).take()
    }

    /// Lets the closure's panic go on in this thread.
    pub fn resume(&self) {
        if let Some(panic) = self.take_panic() {
            resume_unwind(panic);
        }
    }
}

unsafe extern "C" fn on_progress(user: *mut c_void, done: u64, total: u64) -> i32 {
    // SAFETY: `user` is the `Progress` of `Progress::raw`, alive until the work is done. Several threads may be here.
    let progress = unsafe { &*(user as *const Progress<'_>) };
    match catch_unwind(AssertUnwindSafe(|| (progress.call)(done, total))) {
        Ok(ControlFlow::Continue(())) => 0,
        Ok(ControlFlow::Break(())) => 1,
        Err(panic) => {
            let mut first = lock(&progress.panic);
            if first.is_none() {
                *first = Some(panic);
            } else {
                drop(first);
                drop_panic(panic);
            }
            1
        }
    }
}

pub(crate) unsafe extern "C" fn on_log(
    user: *mut c_void,
    level: sys::seer_log_level,
    message: *const c_char,
    length: usize,
) {
    // SAFETY: `user` is the boxed `LogFn` given to the context, alive until `release_log`.
    let log = unsafe { &*(user as *const LogFn) };
    let bytes: &[u8] = if message.is_null() {
        &[]
    } else {
        // SAFETY: `length` bytes, valid during the call.
        unsafe { std::slice::from_raw_parts(message.cast(), length) }
    };
    contain(|| log(LogLevel::from_code(level), &String::from_utf8_lossy(bytes)));
}

pub(crate) unsafe extern "C" fn release_log(user: *mut c_void) {
    // SAFETY: made by `Box::into_raw`, and this is the last use.
    let log = unsafe { Box::from_raw(user as *mut LogFn) };
    contain(|| drop(log));
}
