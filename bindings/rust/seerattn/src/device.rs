//! Backends and devices.
use crate::error::{check, Error, Result, Status};
use crate::sys;
use crate::tensor::Dtype;
use std::os::raw::c_char;
use std::str::FromStr;

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// The first that works: CUDA, Vulkan, CPU.
    #[default]
    Auto,
    /// NVIDIA GPUs.
    Cuda,
    /// GPUs by Vulkan.
    Vulkan,
    /// The processor.
    Cpu,
}

impl Backend {
    pub(crate) fn code(self) -> sys::seer_backend {
        match self {
            Backend::Auto => sys::SEER_BACKEND_AUTO,
            Backend::Cuda => sys::SEER_BACKEND_CUDA,
            Backend::Vulkan => sys::SEER_BACKEND_VULKAN,
            Backend::Cpu => sys::SEER_BACKEND_CPU,
        }
    }

    fn from_code(code: sys::seer_backend) -> Self {
        match code {
            sys::SEER_BACKEND_CUDA => Backend::Cuda,
            sys::SEER_BACKEND_VULKAN => Backend::Vulkan,
            sys::SEER_BACKEND_CPU => Backend::Cpu,
            _ => Backend::Auto,
        }
    }
}

/// `auto`, `cuda`, `vulkan` or `cpu`, as the `seer` command names them.
impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Backend::Auto),
            "cuda" => Ok(Backend::Cuda),
            "vulkan" => Ok(Backend::Vulkan),
            "cpu" => Ok(Backend::Cpu),
            _ => Err(Error::new(
                Status::InvalidArgument,
                format!("backend is \"{}\"; expected auto, cuda, vulkan or cpu", name.escape_default()),
            )),
        }
    }
}

/// A device and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Which backend it belongs to.
    pub backend: Backend,
    /// Its number within the backend.
    pub ordinal: i32,
    /// PCI vendor; 0 for CPUs.
    pub vendor_id: u32,
    /// Zero where unknown.
    pub uuid: [u8; 16],
    /// Memory that the device can use, in bytes.
    pub memory_bytes: u64,
    /// Its name.
    pub name: String,
    /// The kernels in use (instruction set, tier, driver), or why the device cannot be used.
    pub detail: String,
    dtype_bits: u64,
}

impl DeviceInfo {
    pub(crate) fn from_raw(raw: &sys::seer_device_info) -> Self {
        DeviceInfo {
            backend: Backend::from_code(raw.backend),
            ordinal: raw.ordinal,
            vendor_id: raw.vendor_id,
            uuid: raw.uuid,
            memory_bytes: raw.memory_bytes,
            name: text(&raw.name),
            detail: text(&raw.detail),
            dtype_bits: raw.dtype_bits,
        }
    }

    /// Whether `q`, `k` and `v` may have elements of this type.
    pub fn computes(&self, dtype: Dtype) -> bool {
        (self.dtype_bits >> dtype.code()) & 1 != 0
    }
}

fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How many devices a backend has. A backend that is not built in, or whose driver is missing, has none.
pub fn device_count(backend: Backend) -> Result<usize> {
    let mut count = 0;
    // SAFETY: `count` may be written.
    check(unsafe { sys::seer_device_count(backend.code(), &mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The devices of a backend.
pub fn devices(backend: Backend) -> Result<Vec<DeviceInfo>> {
    let count = device_count(backend)?;
    (0..count)
        .map(|ordinal| {
            let mut info = sys::seer_device_info::default();
            // SAFETY: `info` may be written and says its size.
            check(unsafe { sys::seer_device_get(backend.code(), ordinal as i32, &mut info) })?;
            Ok(DeviceInfo::from_raw(&info))
        })
        .collect()
}
