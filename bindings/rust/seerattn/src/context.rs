//! A device and its queue.
use crate::callback::{on_log, release_log, LogFn};
use crate::device::{Backend, DeviceInfo};
use crate::error::{check, Result};
use crate::sys;
use crate::tensor::saturate_i32;
use std::fmt;
use std::ptr::{self, NonNull};

/// One device and one queue, whose work runs in the order of arrival.
///
/// A clone is the same context. It may be used from several threads. Everything made from it keeps it alive, and
/// dropping it waits for nothing: work in flight is finished in the background.
///
/// [`run`](Context::run) computes and waits, [`scope`](Context::scope) computes on borrowed memory without waiting for
/// each operation, [`submit`](Context::submit) returns at once and needs memory that nobody borrows.
#[derive(Debug)]
pub struct Context(NonNull<sys::seer_context>);

// SAFETY: the header: thread-safe.
unsafe impl Send for Context {}
// SAFETY: likewise.
unsafe impl Sync for Context {}

impl Context {
    /// On the first device of a backend; [`Backend::Auto`] is the best there is.
    pub fn new(backend: Backend) -> Result<Self> {
        Context::builder().backend(backend).build()
    }

    /// For all that can be chosen.
    pub fn builder() -> ContextBuilder {
        ContextBuilder::default()
    }

    /// The device.
    pub fn info(&self) -> Result<DeviceInfo> {
        let mut info = sys::seer_device_info::default();
        // SAFETY: the handle lives, `info` may be written and says its size.
        check(unsafe { sys::seer_context_info(self.as_ptr(), &mut info) })?;
        Ok(DeviceInfo::from_raw(&info))
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::seer_context {
        self.0.as_ptr()
    }
}

impl Clone for Context {
    fn clone(&self) -> Self {
        // SAFETY: the handle lives; the new reference is the clone's.
        unsafe { sys::seer_context_retain(self.as_ptr()) }
        Context(self.0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this object's reference.
        unsafe { sys::seer_context_release(self.as_ptr()) }
    }
}

/// How much a context says to its `log` closure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LogLevel {
    /// What made a call fail.
    Error,
    /// What works but was hardly meant; the default.
    Warn,
    /// What is chosen and loaded.
    Info,
    /// What each call does.
    Debug,
}

impl LogLevel {
    fn code(self) -> sys::seer_log_level {
        match self {
            LogLevel::Error => sys::SEER_LOG_ERROR,
            LogLevel::Warn => sys::SEER_LOG_WARN,
            LogLevel::Info => sys::SEER_LOG_INFO,
            LogLevel::Debug => sys::SEER_LOG_DEBUG,
        }
    }

    pub(crate) fn from_code(code: sys::seer_log_level) -> Self {
        match code {
            sys::SEER_LOG_ERROR => LogLevel::Error,
            sys::SEER_LOG_WARN => LogLevel::Warn,
            sys::SEER_LOG_INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

/// What a new context is made of.
///
/// ```no_run
/// # use seerattn::{Backend, Context};
/// let ctx = Context::builder()
///     .backend(Backend::Cpu)
///     .threads(4)
///     .log(|level, message| eprintln!("{level:?}: {message}"))
///     .build()?;
/// # Ok::<(), seerattn::Error>(())
/// ```
#[derive(Default)]
#[must_use = "`build` makes the context"]
pub struct ContextBuilder {
    params: sys::seer_context_params,
    log: Option<LogFn>,
}

impl fmt::Debug for ContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBuilder").field("params", &self.params).finish_non_exhaustive()
    }
}

impl ContextBuilder {
    /// What computes; the best there is unless told.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.params.backend = backend.code();
        self
    }

    /// Which device of the backend; the first unless told.
    pub fn device(mut self, ordinal: usize) -> Self {
        self.params.device = saturate_i32(ordinal);
        self
    }

    /// CPU backend: how many threads a call uses; 0, the default, is one for each core that this process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.params.threads = saturate_i32(threads);
        self
    }

    /// CPU backend: the plain reference kernels, slow, for checking.
    pub fn reference(mut self) -> Self {
        self.params.flags |= sys::SEER_CONTEXT_REFERENCE;
        self
    }

    /// Bytes that a call may take beyond its tensors; over it, it fails with
    /// [`Status::OutOfMemory`](crate::Status::OutOfMemory). 0 = no limit.
    pub fn workspace_limit(mut self, bytes: u64) -> Self {
        self.params.workspace_limit = bytes;
        self
    }

    /// Gets the library's messages, on any thread and on several at once; without it the library is silent. It must not
    /// call the library, which answers [`Status::Busy`](crate::Status::Busy) there. Panics in it are dropped.
    pub fn log(mut self, log: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    /// The least important messages that `log` gets.
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.params.log_level = level.code();
        self
    }

    /// Makes the context.
    pub fn build(mut self) -> Result<Context> {
        let log_user = self.log.take().map_or(ptr::null_mut(), |log| Box::into_raw(Box::new(log)));
        if !log_user.is_null() {
            self.params.log = Some(on_log);
            self.params.log_release = Some(release_log);
            self.params.log_user = log_user.cast();
        }
        let mut raw = ptr::null_mut();
        // SAFETY: `params` is read during the call, but for the log's user data, which lives until its release.
        let result = check(unsafe { sys::seer_context_create(&self.params, &mut raw) });
        if result.is_err() && !log_user.is_null() {
            // SAFETY: a create that failed does not release it and has forgotten it.
            unsafe { release_log(log_user.cast()) };
        }
        result.map(|()| Context(NonNull::new(raw).expect("success gives a handle")))
    }
}
