//! Every declaration against `tests/abi/layout.json`, in which the C compiler's own view of the header is recorded:
//! names, sizes, offsets, types, values. Nothing may be missing on either side.
use serde_json::Value;
use std::collections::BTreeSet;

pub struct Struct {
    pub name: &'static str,
    pub frozen: bool,
    pub size: usize,
    pub align: usize,
    pub fields: Vec<Field>,
}

pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub size: usize,
    pub rust_type: &'static str,
}

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/abi/layout.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect(path)).expect(path)
}

/// The Rust type of a C type as layout.json writes it, without spaces.
fn rust_of(c: &str) -> String {
    if let Some((returned, arguments)) = c.split_once("(*)") {
        return format!("Option<unsafeextern\"C\"{}>", function_of(&format!("{returned} {arguments}")));
    }
    if let Some((element, count)) = c.split_once('[') {
        return format!("[{};{}]", rust_of(element), count.trim_end_matches(']'));
    }
    let spaced = c.replace('*', " * ");
    let (mut rust, mut is_const) = (String::new(), false);
    for word in spaced.split_whitespace() {
        match word {
            "const" => is_const = true,
            "*" => {
                rust.insert_str(0, if is_const { "*const" } else { "*mut" });
                is_const = false;
            }
            base => {
                rust = match base {
                    "void" => "c_void",
                    "char" => "c_char",
                    "float" => "f32",
                    "double" => "f64",
                    "size_t" => "usize",
                    "uint8_t" => "u8",
                    "int32_t" => "i32",
                    "uint32_t" => "u32",
                    "int64_t" => "i64",
                    "uint64_t" => "u64",
                    ours => ours,
                }
                .into()
            }
        }
    }
    rust
}

/// Of `RETURNED (ARGUMENT, ...)`.
fn function_of(c: &str) -> String {
    let (returned, arguments) = c.split_once('(').expect(c);
    let arguments = arguments.trim_end_matches(')');
    let arguments: Vec<String> = arguments.split(',').filter(|a| *a != "void").map(rust_of).collect();
    let returned = match returned.trim() {
        "void" => String::new(),
        other => format!("->{}", rust_of(other)),
    };
    format!("fn({}){}", arguments.join(","), returned)
}

/// Without spaces and without the names of a function pointer's arguments.
fn plain(rust: &str) -> String {
    let mut out = String::new();
    for part in rust.split_inclusive(['(', ',']) {
        let named = part.split_once(':').map_or(part, |(_, type_)| type_);
        out.extend(named.chars().filter(|c| !c.is_whitespace()));
    }
    out
}

fn names<'a>(values: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    values.into_iter().map(String::from).collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    names(object.as_object().expect("an object").keys().map(String::as_str))
}

#[test]
fn structs() {
    let golden = golden();
    let ours = super::structs();
    assert_eq!(names(ours.iter().map(|s| s.name)), keys(&golden["structs"]));
    for s in &ours {
        let theirs = &golden["structs"][s.name];
        assert_eq!(theirs["size"], s.size, "size of {}", s.name);
        assert_eq!(theirs["align"], s.align, "alignment of {}", s.name);
        assert_eq!(theirs["frozen"], s.frozen, "whether {} is frozen", s.name);
        let fields = theirs["fields"].as_array().expect("fields");
        assert_eq!(fields.len(), s.fields.len(), "fields of {}", s.name);
        for (field, theirs) in s.fields.iter().zip(fields) {
            let what = format!("{}.{}", s.name, field.name);
            assert_eq!(theirs["name"], field.name, "{what}");
            assert_eq!(theirs["offset"], field.offset, "offset of {what}");
            assert_eq!(theirs["size"], field.size, "size of {what}");
            assert_eq!(rust_of(theirs["type"].as_str().expect("a type")), plain(field.rust_type), "type of {what}");
        }
    }
}

#[test]
fn constants() {
    let golden = golden();
    assert_eq!(names(super::CONSTANTS.iter().map(|c| c.0)), keys(&golden["constants"]));
    for (name, value) in super::CONSTANTS {
        let theirs = &golden["constants"][name];
        let theirs = theirs.as_i64().map(i128::from).or_else(|| theirs.as_u64().map(i128::from));
        assert_eq!(theirs, Some(*value), "{name}");
    }
}

#[test]
fn types_and_handles() {
    let golden = golden();
    for (ours, theirs) in [(super::TYPES, &golden["types"]), (super::CALLBACKS, &golden["callbacks"])] {
        assert_eq!(names(ours.iter().map(|t| t.0)), keys(theirs));
        for (name, rust) in ours {
            assert_eq!(rust_of(theirs[name].as_str().expect("a type")), plain(rust), "{name}");
        }
    }
    let handles = golden["handles"].as_array().expect("handles").iter().filter_map(Value::as_str);
    assert_eq!(names(super::HANDLES.iter().copied()), names(handles));
}

#[test]
fn functions() {
    let golden = golden();
    assert_eq!(names(super::FUNCTIONS.iter().map(|f| f.0)), keys(&golden["prototypes"]));
    for (name, rust) in super::FUNCTIONS {
        let theirs = golden["prototypes"][name].as_str().expect("a prototype");
        assert_eq!(function_of(theirs), plain(rust), "{name}");
    }
}

#[test]
fn defaults() {
    assert_eq!(
        super::seer_prefill_desc::default().struct_size as usize,
        std::mem::size_of::<super::seer_prefill_desc>()
    );
    assert_eq!(super::seer_tensor::default().mem, super::SEER_MEM_NONE);
}

/// The library that is linked is one of these declarations.
#[test]
fn linked() {
    // SAFETY: takes nothing.
    assert_eq!(unsafe { super::seer_version() } >> 8, super::SEER_VERSION >> 8);
}
