#![doc = include_str!("../README.md")]
//!
//! # The rules behind the types
//!
//! The C header's promises and demands become types:
//!
//! | header | here |
//! |---|---|
//! | contexts, models, buffers, cancel flags are thread-safe | they are `Clone + Send + Sync` |
//! | a gate cache is for one thread at a time | [`GateCache`] is `Send` but not `Sync` |
//! | tensors' memory must live until the work is done | lifetime `'t`; `'static` for [`Context::submit`] |
//! | all else is read only during the call | lifetime `'c` of an operation |
//! | outputs overlap nothing | [`TensorMut`] borrows mutably |
//! | callbacks must return normally | panics are caught in them and go on in the thread that waits |
//!
//! # Errors
//!
//! Every [`Error`] carries the library's [`Status`] and its text, which names the argument, what was found and what was
//! expected. Arguments are judged by the library alone, so that the text is the same in every language; the few cases
//! that C cannot see (a path with a NUL in it, two lists of offsets of different lengths, a buffer of another context)
//! are checked here. No safe call panics because of its arguments.
#![warn(missing_docs, missing_debug_implementations, unsafe_op_in_unsafe_fn, rust_2018_idioms)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub use seerattn_sys as sys;

mod buffer;
mod callback;
mod cancel;
mod context;
mod device;
mod error;
mod gate_cache;
mod model;
#[cfg(feature = "ndarray")]
mod ndarray;
mod operations;
mod rope;
mod select;
mod submit;
mod tensor;

pub use buffer::Buffer;
pub use cancel::Cancel;
pub use context::{Context, ContextBuilder, LogLevel};
pub use device::{device_count, devices, Backend, DeviceInfo};
pub use error::{Error, Result, Status};
pub use gate_cache::GateCache;
pub use model::{GateConfig, GateWeights, LoadOptions, Model, Pool};
pub use operations::{Attention, Gate, Operation, Prefill, SelectBlocks};
pub use rope::Rope;
pub use select::{Select, SelectMethod};
pub use submit::{Pending, Scope, Stats};
pub use tensor::{Dtype, Element, TensorMut, TensorRef};

/// The version of the library that runs: major, minor, patch.
pub fn version() -> (u32, u32, u32) {
    // SAFETY: takes nothing and always works.
    let version = unsafe { sys::seer_version() };
    (version >> 16, (version >> 8) & 0xff, version & 0xff)
}
