//! Finds libseerattn: the folder in SEERATTN_DIR, else pkg-config's, else (feature `vendored`) a build of our own.
//! Dependent build scripts get DEP_SEERATTN_VERSION, _LIBDIR and _SOURCE (one of dir, pkg-config, vendored).
use std::env;
use std::path::{Path, PathBuf};
use std::process::{exit, Command};

const VERSION: &str = "0.1";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SEERATTN_DIR");
    println!("cargo:rerun-if-env-changed=DOCS_RS");
    if env::var_os("DOCS_RS").is_some() {
        return; // documentation needs the declarations only
    }
    if let Some(dir) = env::var_os("SEERATTN_DIR").filter(|dir| !dir.is_empty()) {
        return link_dir(Path::new(&dir));
    }
    let pkg_config_said = match pkg_config::Config::new().atleast_version(VERSION).probe("seerattn") {
        Ok(library) => {
            let libdir = library.link_paths.first().cloned().unwrap_or_default();
            return tell("pkg-config", &libdir, &library.version);
        }
        Err(error) => error.to_string(),
    };
    if env::var_os("CARGO_FEATURE_VENDORED").is_some() {
        return vendored();
    }
    fail(&format!(
        "libseerattn was not found. One of these helps:\n\
         - set SEERATTN_DIR to where it is installed (a folder with lib/) or built (a Meson build folder);\n\
         - install it where pkg-config looks, or set PKG_CONFIG_PATH to the folder of its seerattn.pc;\n\
         - enable the feature `vendored`, which builds it for CPUs with Meson, Ninja and a C++20 compiler.\n\
         pkg-config said: {}",
        pkg_config_said
    ));
}

fn fail(message: &str) -> ! {
    eprintln!("error: {}", message);
    exit(1)
}

fn tell(source: &str, libdir: &Path, version: &str) {
    println!("cargo:source={}", source);
    println!("cargo:libdir={}", libdir.display());
    println!("cargo:version={}", version);
}

fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"))
}

fn target(key: &str) -> String {
    env::var(format!("CARGO_CFG_TARGET_{}", key)).unwrap_or_default()
}

// ---- SEERATTN_DIR ---------------------------------------------------------------------------------------------------

/// Whether a file is the library, its name in a folder for the linker or for the loader.
fn is_library(name: &str) -> bool {
    match target("OS").as_str() {
        "macos" | "ios" => name.starts_with("libseerattn.") && name.ends_with(".dylib"),
        "windows" => {
            ["seerattn.lib", "libseerattn.dll.a", "seerattn.dll"].contains(&name)
                || ((name.starts_with("seerattn-") || name.starts_with("libseerattn-")) && name.ends_with(".dll"))
        }
        _ => name == "libseerattn.so" || name.starts_with("libseerattn.so."),
    }
}

fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    found.retain(|path| path.is_file() && path.file_name().and_then(|n| n.to_str()).map_or(false, is_library));
    found.sort();
    found
}

fn link_dir(dir: &Path) {
    // lib/x86_64-linux-gnu is Debian's, lib64 Fedora's, bin is where Windows has DLLs, the folder itself Meson's.
    let multiarch = format!("lib/{}-{}-{}", target("ARCH"), target("OS"), target("ENV"));
    let places = ["lib", "lib64", multiarch.as_str(), "bin", ""].map(|place| dir.join(place));
    let found: Vec<PathBuf> = places.iter().flat_map(|place| libraries_in(place)).collect();
    let first = match found.first() {
        Some(first) => first,
        None => fail(&format!(
            "SEERATTN_DIR is {}, and there is no libseerattn in it, nor in its lib, lib64, {} or bin{}",
            dir.display(),
            multiarch,
            if dir.is_relative() { ". Give an absolute path: build scripts run in a folder of their own" } else { "" }
        )),
    };
    let libdir = first.parent().unwrap_or(dir).to_path_buf();

    // Linked through a folder of cargo's, because cargo lets programs that it starts find libraries there and nowhere
    // else: `cargo run` and `cargo test` then work without LD_LIBRARY_PATH.
    let linked = out_dir().join("lib");
    let _ = std::fs::remove_dir_all(&linked);
    let prepared = std::fs::create_dir_all(&linked).and_then(|_| {
        found.iter().try_for_each(|library| {
            println!("cargo:rerun-if-changed={}", library.display());
            let name = library.file_name().expect("a file has a name");
            let link = linked.join(name);
            if link.exists() {
                return Ok(()); // found in an earlier place too
            }
            place(&std::fs::canonicalize(library)?, &link)
        })
    });
    if let Err(error) = prepared {
        fail(&format!("{}: {}", linked.display(), error));
    }
    println!("cargo:rustc-link-search=native={}", linked.display());
    println!("cargo:rustc-link-lib=dylib=seerattn");
    tell("dir", &libdir, "");
}

#[cfg(unix)]
fn place(library: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(library, link)
}

#[cfg(not(unix))]
fn place(library: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::copy(library, link).map(|_| ())
}

// ---- vendored -------------------------------------------------------------------------------------------------------

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{:?} ended with {}", command, status)),
        Err(error) => fail(&format!(
            "{:?} could not be started: {}. The feature `vendored` needs meson, ninja, ar and a C++20 compiler",
            command, error
        )),
    }
}

/// The sources are the repository's, of which this crate is a part (as a path or git dependency).
fn vendored() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest.join("../../..");
    if !root.join("capi/include/seerattn/seerattn.h").is_file() {
        fail(&format!(
            "the feature `vendored` needs seerattn's C++ sources, which are not in {}. Use this crate by path or git",
            root.display()
        ));
    }
    if target("ENV") == "msvc" {
        fail("the feature `vendored` does not support MSVC; set SEERATTN_DIR");
    }
    for watched in ["src", "capi", "meson.build", "meson_options.txt"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }

    let build = out_dir().join("meson");
    if !build.join("build.ninja").is_file() {
        let mut setup = Command::new("meson");
        setup.arg("setup").arg(&build).arg(&root).arg("--buildtype=release");
        for option in ["cuda", "vulkan", "tests", "bench", "tools", "fuzz"] {
            setup.arg(format!("-D{}=disabled", option));
        }
        run(&mut setup);
    }
    let jobs = env::var("NUM_JOBS").unwrap_or_else(|_| "1".into());
    run(Command::new("ninja").arg("-C").arg(&build).arg("-j").arg(jobs).arg("libseerattn_core.a"));

    // Meson's own archive is a thin one, which names objects instead of holding them.
    let mut objects = Vec::new();
    let folder = build.join("libseerattn_core.a.p");
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| fail(&format!("{}: {}", folder.display(), e))).flatten()
    {
        let path = entry.path();
        if path.extension().map_or(false, |extension| extension == "o" || extension == "obj") {
            objects.push(path);
        }
    }
    let archive = out_dir().join("libseerattn.a");
    let _ = std::fs::remove_file(&archive);
    run(Command::new("ar").arg("crs").arg(&archive).args(&objects));

    println!("cargo:rustc-link-search=native={}", out_dir().display());
    println!("cargo:rustc-link-lib=static=seerattn");
    for dependency in ["libhwy", "zlib"] {
        if let Err(error) = pkg_config::Config::new().probe(dependency) {
            fail(&error.to_string());
        }
    }
    let cxx = match target("OS").as_str() {
        "macos" | "ios" | "freebsd" => "c++",
        _ => "stdc++",
    };
    println!("cargo:rustc-link-lib={}", cxx);
    tell("vendored", &out_dir(), VERSION);
}
