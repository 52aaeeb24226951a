//! The attention of one layer through its gate. usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]
use safetensors::{tensor::TensorView, SafeTensors};
use seerattn::{Backend, Context, Dtype, Model, Prefill, TensorMut, TensorRef};
use std::{env, error::Error, fs};

fn dtype(view: &TensorView<'_>) -> Result<Dtype, Box<dyn Error>> {
    match view.dtype() {
        safetensors::Dtype::F32 => Ok(Dtype::F32),
        safetensors::Dtype::F16 => Ok(Dtype::F16),
        safetensors::Dtype::BF16 => Ok(Dtype::Bf16),
        other => Err(format!("tensors of {other:?} are not supported").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let (gates, path, layer) = match &args[..] {
        [gates, path] => (gates, path, 0),
        [gates, path, layer] => (gates, path, layer.parse()?),
        _ => return Err("usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]".into()),
    };
    let backend: Backend = env::var("SEER_BACKEND").map_or(Ok(Backend::Auto), |name| name.parse())?;

    let ctx = Context::new(backend)?;
    let model = Model::load(&ctx, gates)?;

    let bytes = fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (q, k, v) = (file.tensor("q")?, file.tensor("k")?, file.tensor("v")?);
    let mut out = vec![0u8; q.data().len()];

    let stats = ctx.run(Prefill::new(
        &model,
        layer,
        TensorRef::from_bytes(q.data(), dtype(&q)?, q.shape()),
        TensorRef::from_bytes(k.data(), dtype(&k)?, k.shape()),
        TensorRef::from_bytes(v.data(), dtype(&v)?, v.shape()),
        TensorMut::from_bytes(&mut out, dtype(&q)?, q.shape()),
    ))?;

    println!("density  {:.1} %", 100.0 * stats.density());
    println!("time     {:.2} ms", 1e3 * stats.device.as_secs_f64());
    println!("checksum {:08x}", crc32fast::hash(&out));
    Ok(())
}
