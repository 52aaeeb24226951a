//! A status and its text.
use crate::sys;
use std::ffi::CStr;
use std::fmt;

/// The result of every call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $code:ident,)*) => {
        /// What kind of error it was; the names and numbers are those of `seerattn.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Status {
            $($(#[$doc])* $name,)*
            /// A status that this crate does not know yet.
            Other(i32),
        }

        impl Status {
            pub(crate) fn from_code(code: sys::seer_status) -> Self {
                match code {
                    $(sys::$code => Status::$name,)*
                    other => Status::Other(other),
                }
            }

            /// The number in the C API.
            pub fn code(self) -> i32 {
                match self {
                    $(Status::$name => sys::$code,)*
                    Status::Other(code) => code,
                }
            }
        }
    };
}

statuses! {
    /// An argument that is wrong in itself: out of range, not a number, unknown.
    InvalidArgument = SEER_ERROR_INVALID_ARGUMENT,
    /// `struct_size` or a reserved field; cannot come from safe code.
    Struct = SEER_ERROR_STRUCT,
    /// An object of another device or context.
    Handle = SEER_ERROR_HANDLE,
    /// Shapes that do not fit each other, the model or the operation.
    Shape = SEER_ERROR_SHAPE,
    /// A type of elements that is not taken there.
    Dtype = SEER_ERROR_DTYPE,
    /// Strides, alignment or overlap.
    Stride = SEER_ERROR_STRIDE,
    /// Memory of a kind that the device cannot use.
    MemoryKind = SEER_ERROR_MEMORY_KIND,
    /// A view that exceeds its memory, or 64-bit overflow on the way.
    OutOfBounds = SEER_ERROR_OUT_OF_BOUNDS,
    /// Not supported by this device or build.
    Unsupported = SEER_ERROR_UNSUPPORTED,
    /// The host's memory, or the context's workspace limit, is used up.
    OutOfMemory = SEER_ERROR_OUT_OF_MEMORY,
    /// The device's memory is used up.
    DeviceOutOfMemory = SEER_ERROR_DEVICE_OUT_OF_MEMORY,
    /// The context is dead: the device was lost, or this process is a fork of the one that made the context.
    DeviceLost = SEER_ERROR_DEVICE_LOST,
    /// Cancelled by a [`Cancel`](crate::Cancel) or a progress callback.
    Cancelled = SEER_ERROR_CANCELLED,
    /// A file could not be read or written.
    Io = SEER_ERROR_IO,
    /// A malformed file.
    Format = SEER_ERROR_FORMAT,
    /// A file that could be loaded only by executing code from it.
    UnsafeFile = SEER_ERROR_UNSAFE_FILE,
    /// Weights and configuration, or tensors and model, do not fit.
    ModelMismatch = SEER_ERROR_MODEL_MISMATCH,
    /// A gate cache is full, or the chunk does not follow what it holds.
    CacheState = SEER_ERROR_CACHE_STATE,
    /// Called from a callback.
    Busy = SEER_ERROR_BUSY,
    /// A defect of the library.
    Internal = SEER_ERROR_INTERNAL,
}

impl Status {
    /// The name in the C API, e.g. `SEER_ERROR_SHAPE`.
    pub fn name(self) -> &'static str {
        // SAFETY: any number will do; the text is static, never NULL and ASCII.
        unsafe { CStr::from_ptr(sys::seer_status_name(self.code())) }.to_str().unwrap_or("SEER_ERROR_?")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What went wrong: the status and the text that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    detail: String,
}

impl Error {
    pub(crate) fn new(status: Status, detail: impl Into<String>) -> Self {
        Error { status, detail: detail.into() }
    }

    /// Of this thread's last call, which failed with `code`. The text lives until the thread's next failure, so it is
    /// copied at once.
    pub(crate) fn last(code: sys::seer_status) -> Self {
        // SAFETY: never NULL, valid until the thread's next call that fails.
        let detail = unsafe { CStr::from_ptr(sys::seer_last_error()) };
        Error { status: Status::from_code(code), detail: detail.to_string_lossy().into_owned() }
    }

    /// What kind of error it was.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Which argument or file, what was found and what was expected.
    pub fn detail(&self) -> &str {
        &self.detail
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl std::error::Error for Error {}

/// Turns the status of the call just made on this thread into a result.
pub(crate) fn check(code: sys::seer_status) -> Result<()> {
    if code < 0 {
        Err(Error::last(code))
    } else {
        Ok(())
    }
}
