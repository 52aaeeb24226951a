//! The C API of libseerattn, declaration by declaration; the crate `seerattn` is the safe one.
//!
//! What each function promises and demands is said in `seerattn/seerattn.h`, which these declarations mirror: a test
//! compares them with what bindgen makes of the header, and their layout with the library's golden file.
//!
//! `build.rs` looks for the library, in this order: the folder that the environment variable `SEERATTN_DIR` names (an
//! installation with `lib/`, or a Meson build folder), then pkg-config, then, with the feature `vendored`, a build for
//! CPUs of this repository's own sources. On docs.rs nothing is linked.
//!
//! Growable structs have a `Default` that sets `struct_size` and zeroes the rest, as `SEER_INIT` does in C; the other
//! structs' `Default` is all zero. Zero is always the documented default.
#![allow(non_camel_case_types)]
#![warn(missing_debug_implementations)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("seerattn supports 64-bit targets only");

use std::os::raw::{c_char, c_void};

// ---- Macros: each also gives the tests a table of what it declares
// ----------------------------------------------------

/// Opaque types: never made, moved or read in Rust, and neither `Send` nor `Sync` by themselves.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _unused: [u8; 0],
                _not_send: std::marker::PhantomData<(*mut u8, std::marker::PhantomPinned)>,
            }
        )*
        #[cfg(test)]
        const HANDLES: &[&str] = &[$(stringify!($name)),*];
    };
}

macro_rules! types {
    ($table:ident: $($(#[$doc:meta])* pub type $name:ident = $type:ty;)*) => {
        $($(#[$doc])* pub type $name = $type;)*
        #[cfg(test)]
        const $table: &[(&str, &str)] = &[$((stringify!($name), stringify!($type))),*];
    };
}

macro_rules! constants {
    ($($(#[$doc:meta])* pub const $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*
        #[cfg(test)]
        const CONSTANTS: &[(&str, i128)] = &[$((stringify!($name), $name as i128)),*];
    };
}

/// Structs of plain data. `Default` zeroes them and, of growable ones, sets the size.
macro_rules! structs {
    ($($(#[$doc:meta])* $kind:ident struct $name:ident { $(pub $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                $(pub $field: $type,)*
            }

            impl Default for $name {
                fn default() -> Self {
                    // SAFETY: every field is an integer, a float, a raw pointer, an `Option` of a function pointer, or
                    // an array or struct of those: all of them may be zero.
                    #[allow(unused_mut)]
                    let mut zero: Self = unsafe { std::mem::zeroed() };
                    structs!(@size $kind zero);
                    zero
                }
            }
        )*
        #[cfg(test)]
        fn structs() -> Vec<layout::Struct> {
            vec![$(layout::Struct {
                name: stringify!($name),
                frozen: stringify!($kind) == "frozen",
                size: std::mem::size_of::<$name>(),
                align: std::mem::align_of::<$name>(),
                fields: vec![$(layout::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: std::mem::size_of::<$type>(),
                    rust_type: stringify!($type),
                }),*],
            }),*]
        }
    };
    (@size growable $s:ident) => { $s.struct_size = std::mem::size_of_val(&$s) as u32; };
    (@size frozen $s:ident) => {};
}

macro_rules! functions {
    ($(pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        extern "C" {
            $(pub fn $name($($arg: $type),*) $(-> $ret)?;)*
        }
        #[cfg(test)]
        const FUNCTIONS: &[(&str, &str)] = &[$((stringify!($name), stringify!(fn($($type),*) $(-> $ret)?))),*];
    };
}

// ---- Handles --------------------------------------------------------------------------------------------------------

handles! {
    /// One device and one in-order queue. Thread-safe.
    seer_context;
    /// Gate weights, immutable. Thread-safe.
    seer_model;
    /// Device memory owned by the library. The handle is thread-safe.
    seer_buffer;
    /// Per-layer compressed keys. One thread at a time.
    seer_gate_cache;
    /// A cancel flag. Thread-safe.
    seer_cancel;
}

// ---- Enumerations: integers, because a value that Rust's `enum` does not list would be undefined behaviour ----------

types! { TYPES:
    /// The position of a call in its context's queue. 0 means "already complete".
    pub type seer_ticket = u64;
    pub type seer_status = i32;
    pub type seer_backend = i32;
    pub type seer_dtype = i32;
    pub type seer_mem = i32;
    pub type seer_select_method = i32;
    pub type seer_rope_kind = i32;
    pub type seer_log_level = i32;
}

constants! {
    pub const SEER_VERSION_MAJOR: u32 = 0;
    pub const SEER_VERSION_MINOR: u32 = 1;
    pub const SEER_VERSION_PATCH: u32 = 0;
    /// Of the header that these declarations were written from.
    pub const SEER_VERSION: u32 = (SEER_VERSION_MAJOR << 16) | (SEER_VERSION_MINOR << 8) | SEER_VERSION_PATCH;

    pub const SEER_TICKET_ALL: seer_ticket = u64::MAX;

    pub const SEER_OK: seer_status = 0;
    pub const SEER_NOT_READY: seer_status = 1;
    pub const SEER_TIMEOUT: seer_status = 2;
    pub const SEER_ERROR_INVALID_ARGUMENT: seer_status = -1;
    pub const SEER_ERROR_STRUCT: seer_status = -2;
    pub const SEER_ERROR_HANDLE: seer_status = -3;
    pub const SEER_ERROR_SHAPE: seer_status = -4;
    pub const SEER_ERROR_DTYPE: seer_status = -5;
    pub const SEER_ERROR_STRIDE: seer_status = -6;
    pub const SEER_ERROR_MEMORY_KIND: seer_status = -7;
    pub const SEER_ERROR_OUT_OF_BOUNDS: seer_status = -8;
    pub const SEER_ERROR_UNSUPPORTED: seer_status = -9;
    pub const SEER_ERROR_OUT_OF_MEMORY: seer_status = -10;
    pub const SEER_ERROR_DEVICE_OUT_OF_MEMORY: seer_status = -11;
    pub const SEER_ERROR_DEVICE_LOST: seer_status = -12;
    pub const SEER_ERROR_CANCELLED: seer_status = -13;
    pub const SEER_ERROR_IO: seer_status = -14;
    pub const SEER_ERROR_FORMAT: seer_status = -15;
    pub const SEER_ERROR_UNSAFE_FILE: seer_status = -16;
    pub const SEER_ERROR_MODEL_MISMATCH: seer_status = -17;
    pub const SEER_ERROR_CACHE_STATE: seer_status = -18;
    pub const SEER_ERROR_BUSY: seer_status = -19;
    pub const SEER_ERROR_INTERNAL: seer_status = -99;

    pub const SEER_BACKEND_AUTO: seer_backend = 0;
    pub const SEER_BACKEND_CUDA: seer_backend = 1;
    pub const SEER_BACKEND_VULKAN: seer_backend = 2;
    pub const SEER_BACKEND_CPU: seer_backend = 3;

    pub const SEER_DTYPE_NONE: seer_dtype = 0;
    pub const SEER_F32: seer_dtype = 1;
    pub const SEER_F16: seer_dtype = 2;
    pub const SEER_BF16: seer_dtype = 3;
    pub const SEER_I32: seer_dtype = 4;
    pub const SEER_I64: seer_dtype = 5;
    pub const SEER_U8: seer_dtype = 6;
    pub const SEER_B32: seer_dtype = 7;

    pub const SEER_MEM_NONE: seer_mem = 0;
    pub const SEER_MEM_HOST: seer_mem = 1;
    pub const SEER_MEM_CUDA: seer_mem = 2;
    pub const SEER_MEM_VULKAN: seer_mem = 3;
    pub const SEER_MEM_BUFFER: seer_mem = 4;

    pub const SEER_SELECT_MODEL: seer_select_method = 0;
    pub const SEER_SELECT_THRESHOLD: seer_select_method = 1;
    pub const SEER_SELECT_RATIO: seer_select_method = 2;
    pub const SEER_SELECT_BUDGET: seer_select_method = 3;
    pub const SEER_SELECT_ALL: seer_select_method = 4;

    pub const SEER_ROPE_DEFAULT: seer_rope_kind = 0;
    pub const SEER_ROPE_NONE: seer_rope_kind = 1;
    pub const SEER_ROPE_THETA: seer_rope_kind = 2;
    pub const SEER_ROPE_INV_FREQ: seer_rope_kind = 3;

    pub const SEER_LOG_OFF: seer_log_level = 0;
    pub const SEER_LOG_ERROR: seer_log_level = 1;
    pub const SEER_LOG_WARN: seer_log_level = 2;
    pub const SEER_LOG_INFO: seer_log_level = 3;
    pub const SEER_LOG_DEBUG: seer_log_level = 4;

    /// Bits of `seer_gate_config::q_pool` and `k_pool`.
    pub const SEER_POOL_MAX: i32 = 1;
    pub const SEER_POOL_MIN: i32 = 2;
    pub const SEER_POOL_AVG: i32 = 4;

    /// Bits of `seer_select_spec::flags`.
    pub const SEER_SELECT_KEEP_DIAGONAL: u32 = 1;
    pub const SEER_SELECT_KEEP_FIRST: u32 = 2;
    /// Bit of `seer_context_params::flags`.
    pub const SEER_CONTEXT_REFERENCE: u64 = 1;
    /// Bit of `seer_load_params::flags`.
    pub const SEER_LOAD_SAFETENSORS_ONLY: u32 = 1;
    /// Bit of `seer_gate_desc::flags`.
    pub const SEER_GATE_LOGITS: u32 = 1;
    /// Bits of `seer_submit::flags`.
    pub const SEER_SUBMIT_BLOCKING: u32 = 1;
    pub const SEER_SUBMIT_USE_STREAM: u32 = 2;
}

// Callbacks must not unwind: catch a panic inside them.
types! { CALLBACKS:
    pub type seer_log_fn =
        Option<unsafe extern "C" fn(user: *mut c_void, level: seer_log_level, message: *const c_char, length: usize)>;
    pub type seer_progress_fn = Option<unsafe extern "C" fn(user: *mut c_void, done: u64, total: u64) -> i32>;
    pub type seer_done_fn = Option<unsafe extern "C" fn(user: *mut c_void, ticket: seer_ticket, status: seer_status)>;
    pub type seer_release_fn = Option<unsafe extern "C" fn(user: *mut c_void)>;
}

// ---- Structs --------------------------------------------------------------------------------------------------------

structs! {
    /// A borrowed view of memory. All-zero means absent.
    frozen struct seer_tensor {
        pub mem: seer_mem,
        pub dtype: seer_dtype,
        pub ndim: i32,
        pub reserved0: u32,
        pub data: *mut c_void,
        pub vk_buffer: u64,
        pub buffer: *mut seer_buffer,
        pub offset: u64,
        pub size: u64,
        pub shape: [i64; 4],
        pub stride: [i64; 4],
        pub reserved1: u64,
    }

    /// How blocks are chosen.
    frozen struct seer_select_spec {
        pub method: seer_select_method,
        pub last_dense_rows: i32,
        pub threshold: f64,
        pub ratio: f64,
        pub token_budget: i64,
        pub flags: u32,
        pub reserved: u32,
    }

    /// Rotary position embedding.
    frozen struct seer_rope {
        pub kind: seer_rope_kind,
        pub inv_freq_count: u32,
        pub theta: f64,
        pub attention_scaling: f64,
        pub inv_freq: *const f32,
        pub reserved: [u64; 2],
    }

    growable struct seer_device_info {
        pub struct_size: u32,
        pub backend: seer_backend,
        pub ordinal: i32,
        pub vendor_id: u32,
        pub uuid: [u8; 16],
        pub memory_bytes: u64,
        pub dtype_bits: u64,
        pub name: [c_char; 256],
        pub detail: [c_char; 256],
    }

    growable struct seer_allocator {
        pub struct_size: u32,
        pub reserved: u32,
        pub host_alloc: Option<unsafe extern "C" fn(user: *mut c_void, size: u64, align: u64) -> *mut c_void>,
        pub host_free: Option<unsafe extern "C" fn(user: *mut c_void, ptr: *mut c_void, size: u64)>,
        pub device_alloc:
            Option<unsafe extern "C" fn(user: *mut c_void, size: u64, stream: *mut c_void) -> *mut c_void>,
        pub device_free:
            Option<unsafe extern "C" fn(user: *mut c_void, ptr: *mut c_void, size: u64, stream: *mut c_void)>,
        pub user: *mut c_void,
        pub release: seer_release_fn,
    }

    growable struct seer_context_params {
        pub struct_size: u32,
        pub backend: seer_backend,
        pub device: i32,
        pub threads: i32,
        pub flags: u64,
        pub allocator: *const seer_allocator,
        pub log: seer_log_fn,
        pub log_user: *mut c_void,
        pub log_release: seer_release_fn,
        pub log_level: seer_log_level,
        pub reserved: u32,
        pub workspace_limit: u64,
    }

    growable struct seer_load_params {
        pub struct_size: u32,
        pub flags: u32,
        pub first_layer: i32,
        pub layer_count: i32,
        pub first_kv_head: i32,
        pub kv_head_count: i32,
        pub max_file_bytes: u64,
        pub cancel: *mut seer_cancel,
        pub progress: seer_progress_fn,
        pub progress_user: *mut c_void,
    }

    growable struct seer_gate_config {
        pub struct_size: u32,
        pub layers: i32,
        pub q_heads: i32,
        pub kv_heads: i32,
        pub head_dim: i32,
        pub gate_dim: i32,
        pub block_size: i32,
        pub q_pool: i32,
        pub k_pool: i32,
        pub force_double: i32,
        pub first_layer: i32,
        pub reserved: u32,
        pub rope: seer_rope,
        pub gate_rope: seer_rope,
        pub select: seer_select_spec,
    }

    growable struct seer_gate_weights {
        pub struct_size: u32,
        pub reserved: u32,
        pub wq: seer_tensor,
        pub wk: seer_tensor,
    }

    growable struct seer_gate_cache_params {
        pub struct_size: u32,
        pub sequences: i32,
        pub max_tokens: i64,
    }

    /// The sequences of a packed batch: `count + 1` offsets each.
    frozen struct seer_sequences {
        pub q: *const i32,
        pub k: *const i32,
        pub count: i32,
        pub reserved: u32,
    }

    growable struct seer_prefill_desc {
        pub struct_size: u32,
        pub flags: u32,
        pub q: seer_tensor,
        pub k: seer_tensor,
        pub v: seer_tensor,
        pub out: seer_tensor,
        pub lse: seer_tensor,
        pub scores: seer_tensor,
        pub mask: seer_tensor,
        pub sequences: seer_sequences,
        pub select: seer_select_spec,
        pub rope: seer_rope,
        pub softmax_scale: f64,
        pub cache: *mut seer_gate_cache,
        pub total_len: i64,
    }

    growable struct seer_gate_desc {
        pub struct_size: u32,
        pub flags: u32,
        pub q: seer_tensor,
        pub k: seer_tensor,
        pub scores: seer_tensor,
        pub mask: seer_tensor,
        pub sequences: seer_sequences,
        pub select: seer_select_spec,
        pub rope: seer_rope,
        pub cache: *mut seer_gate_cache,
        pub total_len: i64,
    }

    growable struct seer_select_desc {
        pub struct_size: u32,
        pub flags: u32,
        pub scores: seer_tensor,
        pub mask: seer_tensor,
        pub sequences: seer_sequences,
        pub q_len: i64,
        pub k_len: i64,
        pub block_size: i32,
        pub reserved: u32,
        pub select: seer_select_spec,
        pub total_len: i64,
    }

    growable struct seer_attention_desc {
        pub struct_size: u32,
        pub flags: u32,
        pub q: seer_tensor,
        pub k: seer_tensor,
        pub v: seer_tensor,
        pub out: seer_tensor,
        pub lse: seer_tensor,
        pub mask: seer_tensor,
        pub sequences: seer_sequences,
        pub rope: seer_rope,
        pub softmax_scale: f64,
        pub block_size: i32,
        pub reserved: u32,
    }

    growable struct seer_submit {
        pub struct_size: u32,
        pub flags: u32,
        pub cancel: *mut seer_cancel,
        pub progress: seer_progress_fn,
        pub progress_user: *mut c_void,
        pub cuda_stream: *mut c_void,
    }

    growable struct seer_stats {
        pub struct_size: u32,
        pub reserved: u32,
        pub blocks_kept: u64,
        pub blocks_causal: u64,
        pub fallback_rows: u64,
        pub workspace_bytes: u64,
        pub device_ns: u64,
        pub gate_ns: u64,
        pub attend_ns: u64,
    }
}

// ---- Functions ------------------------------------------------------------------------------------------------------

functions! {
    pub fn seer_version() -> u32;
    pub fn seer_status_name(status: seer_status) -> *const c_char;
    pub fn seer_last_error() -> *const c_char;

    pub fn seer_device_count(backend: seer_backend, count: *mut i32) -> seer_status;
    pub fn seer_device_get(backend: seer_backend, ordinal: i32, info: *mut seer_device_info) -> seer_status;

    pub fn seer_context_create(params: *const seer_context_params, out: *mut *mut seer_context) -> seer_status;
    pub fn seer_context_info(ctx: *const seer_context, info: *mut seer_device_info) -> seer_status;
    pub fn seer_context_retain(ctx: *mut seer_context);
    pub fn seer_context_release(ctx: *mut seer_context);

    pub fn seer_model_load_dir(
        ctx: *mut seer_context,
        dir: *const c_char,
        params: *const seer_load_params,
        out: *mut *mut seer_model,
    ) -> seer_status;
    pub fn seer_model_load_memory(
        ctx: *mut seer_context,
        config_json: *const c_char,
        config_size: u64,
        weights: *const c_void,
        weights_size: u64,
        params: *const seer_load_params,
        out: *mut *mut seer_model,
    ) -> seer_status;
    pub fn seer_model_create(
        ctx: *mut seer_context,
        config: *const seer_gate_config,
        layers: *const *const seer_gate_weights,
        out: *mut *mut seer_model,
    ) -> seer_status;
    pub fn seer_model_save(model: *const seer_model, dir: *const c_char) -> seer_status;
    pub fn seer_model_config(model: *const seer_model, out: *mut seer_gate_config) -> seer_status;
    pub fn seer_model_retain(model: *mut seer_model);
    pub fn seer_model_release(model: *mut seer_model);

    pub fn seer_buffer_create(ctx: *mut seer_context, size: u64, flags: u32, out: *mut *mut seer_buffer)
        -> seer_status;
    pub fn seer_buffer_address(buffer: *const seer_buffer, address: *mut *mut c_void) -> seer_status;
    pub fn seer_buffer_write(buffer: *mut seer_buffer, offset: u64, src: *const c_void, size: u64) -> seer_status;
    pub fn seer_buffer_read(buffer: *const seer_buffer, offset: u64, dst: *mut c_void, size: u64) -> seer_status;
    pub fn seer_buffer_retain(buffer: *mut seer_buffer);
    pub fn seer_buffer_release(buffer: *mut seer_buffer);

    pub fn seer_cancel_create(out: *mut *mut seer_cancel) -> seer_status;
    pub fn seer_cancel_trigger(cancel: *mut seer_cancel);
    pub fn seer_cancel_release(cancel: *mut seer_cancel);

    pub fn seer_gate_cache_create(
        ctx: *mut seer_context,
        model: *const seer_model,
        params: *const seer_gate_cache_params,
        out: *mut *mut seer_gate_cache,
    ) -> seer_status;
    pub fn seer_gate_cache_length(
        cache: *const seer_gate_cache,
        layer: i32,
        sequence: i32,
        tokens: *mut i64,
    ) -> seer_status;
    pub fn seer_gate_cache_truncate(cache: *mut seer_gate_cache, sequence: i32, tokens: i64) -> seer_status;
    pub fn seer_gate_cache_release(cache: *mut seer_gate_cache);

    pub fn seer_prefill(
        ctx: *mut seer_context,
        model: *const seer_model,
        layer: i32,
        desc: *const seer_prefill_desc,
        submit: *const seer_submit,
        ticket: *mut seer_ticket,
    ) -> seer_status;
    pub fn seer_gate(
        ctx: *mut seer_context,
        model: *const seer_model,
        layer: i32,
        desc: *const seer_gate_desc,
        submit: *const seer_submit,
        ticket: *mut seer_ticket,
    ) -> seer_status;
    pub fn seer_select(
        ctx: *mut seer_context,
        desc: *const seer_select_desc,
        submit: *const seer_submit,
        ticket: *mut seer_ticket,
    ) -> seer_status;
    pub fn seer_attention(
        ctx: *mut seer_context,
        desc: *const seer_attention_desc,
        submit: *const seer_submit,
        ticket: *mut seer_ticket,
    ) -> seer_status;
    pub fn seer_prefill_workspace(
        ctx: *mut seer_context,
        model: *const seer_model,
        desc: *const seer_prefill_desc,
        bytes: *mut u64,
    ) -> seer_status;

    pub fn seer_wait(ctx: *mut seer_context, ticket: seer_ticket, timeout_ns: u64) -> seer_status;
    pub fn seer_on_done(
        ctx: *mut seer_context,
        ticket: seer_ticket,
        fn_: seer_done_fn,
        user: *mut c_void,
    ) -> seer_status;
    pub fn seer_ticket_stats(ctx: *mut seer_context, ticket: seer_ticket, out: *mut seer_stats) -> seer_status;
}

#[cfg(test)]
mod layout;
