//! Models from folders, memory and arrays.
use crate::case::{golden_dir, Case};
use crate::cpu;
use seerattn::{
    Cancel, GateConfig, GateWeights, LoadOptions, Model, Pool, Rope, Select, SelectMethod, Status, TensorRef,
};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A new folder in cargo's.
fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn folder_memory_and_saved_are_the_same() {
    let (ctx, dir) = (cpu(), golden_dir().join("llama-threshold"));
    let loaded = Model::load(&ctx, &dir).unwrap();
    let config = loaded.config().unwrap();
    assert_eq!((config.head_dim, config.block_size), (128, 64));
    assert_eq!(config.k_pool, Pool { max: true, min: true, avg: true });
    assert_eq!(config.q_pool.count(), 1);
    assert!(matches!(config.select.method, SelectMethod::Threshold(_)));

    let json = std::fs::read(dir.join("config.json")).unwrap();
    for file in ["attn_gate_weights.pth", "attn_gate_weights.safetensors"] {
        let weights = std::fs::read(dir.join(file)).unwrap();
        assert_eq!(Model::from_bytes(&ctx, &json, &weights).unwrap().config().unwrap(), config, "{file}");
    }
    let saved = folder("saved");
    loaded.save(&saved).unwrap();
    assert_eq!(Model::load(&ctx, &saved).unwrap().config().unwrap(), config);
}

#[test]
fn parts() {
    let (ctx, case) = (cpu(), Case::named("llama-tail"));
    let all = Model::load(&ctx, &case.dir).unwrap().config().unwrap();
    let part = LoadOptions::new().layers(case.layer..case.layer + 1).load(&ctx, &case.dir).unwrap();
    let config = part.config().unwrap();
    assert_eq!((config.layers, config.first_layer), (1, case.layer));
    assert!(all.layers > 1);
    // In C a count of 0 is everything: an empty range must not become that.
    let empty = LoadOptions::new().layers(1..1).load(&ctx, &case.dir).unwrap_err();
    assert_eq!((empty.status(), empty.detail()), (Status::InvalidArgument, "layers is 1..1, which is empty"));
    let empty = LoadOptions::new().kv_heads(0..0).load(&ctx, &case.dir).unwrap_err();
    assert_eq!(empty.status(), Status::InvalidArgument);
    let beyond = LoadOptions::new().layers(0..1000).load(&ctx, &case.dir).unwrap_err();
    assert!(beyond.detail().contains("1000"), "{beyond}");
}

#[test]
fn arrays() {
    let ctx = cpu();
    let mut config = GateConfig::default();
    config.layers = 2;
    config.q_heads = 4;
    config.kv_heads = 2;
    config.head_dim = 32;
    config.gate_dim = 32;
    config.block_size = 32;
    config.q_pool.avg = true;
    config.k_pool.avg = true;
    config.rope = Rope::theta(1e4);
    config.gate_rope = Rope::theta(1e4);
    config.select = Select::budget(64).last_dense_rows(0).keep_first();
    let weights = vec![0.25f32; 4 * 32 * 32];
    let layer = GateWeights { wq: None, wk: TensorRef::new(&weights, &[4, 32, 32]) };
    let layers = [layer.clone(), layer];
    let model = Model::from_weights(&ctx, &config, &layers).unwrap();
    assert_eq!(model.config().unwrap(), config);
    config.rope = Rope::inv_freq(vec![0.5f32; 16]).scaled(1.25);
    let model = Model::from_weights(&ctx, &config, &layers).unwrap();
    assert_eq!(model.config().unwrap(), config);

    // C reads as many layers as the configuration says.
    config.layers = 3;
    let error = Model::from_weights(&ctx, &config, &layers).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    config.layers = 0;
    assert!(Model::from_weights(&ctx, &config, &[]).is_err());
    // Short of a row, and of the wrong type.
    config.layers = 1;
    let short = GateWeights { wq: None, wk: TensorRef::new(&weights[..4000], &[4, 32, 32]) };
    assert_eq!(Model::from_weights(&ctx, &config, &[short]).unwrap_err().status(), Status::OutOfBounds);
    let integers = vec![0i32; 4 * 32 * 32];
    let wrong = GateWeights { wq: None, wk: TensorRef::new(&integers, &[4, 32, 32]) };
    assert_eq!(Model::from_weights(&ctx, &config, &[wrong]).unwrap_err().status(), Status::Dtype);
}

#[test]
fn progress_and_cancelling() {
    let (ctx, dir) = (cpu(), golden_dir().join("llama-threshold"));
    let seen = AtomicU64::new(0);
    let watch = |done: u64, total: u64| {
        assert!(done <= total);
        seen.fetch_max(total, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    LoadOptions::new().progress(watch).load(&ctx, &dir).unwrap();
    assert!(seen.load(Ordering::Relaxed) > 0);

    let stopped = LoadOptions::new().progress(|_, _| ControlFlow::Break(())).load(&ctx, &dir).unwrap_err();
    assert_eq!(stopped.status(), Status::Cancelled);
    let cancel = Cancel::new().unwrap();
    cancel.trigger();
    let cancelled = LoadOptions::new().cancel(&cancel).load(&ctx, &dir).unwrap_err();
    assert_eq!(cancelled.status(), Status::Cancelled);

    let panic = std::panic::catch_unwind(|| {
        LoadOptions::new().progress(|_, _| std::panic::resume_unwind(Box::new("boom"))).load(&ctx, &dir)
    });
    assert_eq!(*panic.unwrap_err().downcast::<&str>().unwrap(), "boom");
}

#[test]
fn refused_files() {
    let (ctx, dir) = (cpu(), golden_dir().join("llama-threshold"));
    let json = std::fs::read(dir.join("config.json")).unwrap();
    let status = |result: seerattn::Result<Model>| result.unwrap_err().status();
    assert_eq!(status(Model::load(&ctx, "/nowhere")), Status::Io);
    assert_eq!(status(Model::load(&ctx, "with\0nul")), Status::InvalidArgument);
    assert_eq!(status(Model::from_bytes(&ctx, b"{", b"")), Status::Format);
    assert_eq!(status(Model::from_bytes(&ctx, &json, b"neither")), Status::Format);
    assert_eq!(status(Model::from_bytes(&ctx, b"", b"")), Status::Format);
    let hostile = std::fs::read(golden_dir().join("../hostile/bad-os-system.pth")).unwrap();
    assert_eq!(status(Model::from_bytes(&ctx, &json, &hostile)), Status::UnsafeFile);
    assert_eq!(status(LoadOptions::new().max_file_bytes(10).load(&ctx, &dir)), Status::Format);
    let model = Model::load(&ctx, &dir).unwrap();
    assert_eq!(model.save("/nowhere/at/all").unwrap_err().status(), Status::Io);
}
