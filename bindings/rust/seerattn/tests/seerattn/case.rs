//! The golden cases.
use half::bf16;
use safetensors::SafeTensors;
use seerattn::{TensorMut, TensorRef};
use std::path::PathBuf;

pub fn golden_dir() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../../tests/golden"].iter().collect()
}

/// A tensor of a file, as f32.
pub struct Values {
    pub data: Vec<f32>,
    pub shape: Vec<usize>,
}

impl Values {
    pub fn tensor(&self) -> TensorRef<'_> {
        TensorRef::new(&self.data, &self.shape)
    }

    /// As the file has it.
    pub fn bf16(&self) -> Vec<bf16> {
        self.data.iter().map(|&x| bf16::from_f32(x)).collect()
    }

    pub fn zeros(shape: &[usize]) -> Self {
        Values { data: vec![0.0; shape.iter().product()], shape: shape.to_vec() }
    }

    pub fn tensor_mut(&mut self) -> TensorMut<'_> {
        TensorMut::new(&mut self.data, &self.shape)
    }
}

pub struct Case {
    pub dir: PathBuf,
    pub layer: usize,
    file: Vec<u8>,
}

impl Case {
    pub fn named(name: &str) -> Self {
        let dir = golden_dir().join(name);
        let read = |file: &str| std::fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
        let json: serde_json::Value = serde_json::from_slice(&read("case.json")).expect("case.json");
        let layer = json["layer"].as_u64().expect("a layer") as usize;
        let file = read("case.safetensors");
        Case { dir, layer, file }
    }

    pub fn all() -> Vec<Self> {
        let entries = std::fs::read_dir(golden_dir()).expect("tests/golden");
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap()).filter(|e| e.path().is_dir()).map(|e| e.file_name()).collect();
        names.sort();
        names.iter().map(|name| Case::named(name.to_str().unwrap())).collect()
    }

    pub fn get(&self, name: &str) -> Values {
        let file = SafeTensors::deserialize(&self.file).expect("case.safetensors");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: {e}", self.dir.display()));
        let words = |n: usize| view.data().chunks_exact(n);
        let data = match view.dtype() {
            safetensors::Dtype::F32 => words(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            safetensors::Dtype::I32 => words(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
            safetensors::Dtype::BF16 => words(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
            safetensors::Dtype::U8 => view.data().iter().map(|&b| f32::from(b)).collect(),
            other => panic!("{other:?}"),
        };
        Values { data, shape: view.shape().to_vec() }
    }
}
