//! The rules of the tree, kept by a test over the source from the first day: layers, file
//! sizes, where `unsafe` may be, that components are built of their sources, and that no suite is
//! forgotten.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::Digest;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Longest source file, lines: more than one idea is in it by then.
const FILE_LINES: usize = 600;

/// A module's group in `lib.rs`, by name.
type Groups = BTreeMap<String, usize>;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(ROOT).join("src");
    rust_files(&src)
        .into_iter()
        .map(|path| (path.strip_prefix(&src).unwrap().to_owned(), read(&path)))
        .collect()
}

/// Reads `// N: words` lines and the `pub mod name;` lines below each.
fn groups(lib: &str) -> Groups {
    let mut groups = Groups::new();
    let mut group = None;
    for line in lib.lines() {
        if let Some((number, _)) = line.strip_prefix("// ").and_then(|rest| rest.split_once(':')) {
            let number = number.parse().unwrap_or_else(|_| panic!("lib.rs: {line:?}"));
            assert!(group < Some(number), "lib.rs: group {number} after {group:?}");
            group = Some(number);
        } else if let Some(name) = line.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';'))
        {
            let group = group.unwrap_or_else(|| panic!("lib.rs: {name} is in no group"));
            groups.insert(name.to_owned(), group);
        }
    }
    groups
}

/// Top-level modules that a file names: `crate::a`, `crate::{a, b::c}`, and `super::` where
/// that reaches the crate's root.
fn uses(text: &str, depth: usize) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut roots: Vec<&str> = code.split("crate::").skip(1).collect();
    roots.extend(code.split(&"super::".repeat(depth)).skip(1).filter(|_| depth > 0));
    roots.into_iter().flat_map(heads).collect()
}

/// The first word, or the first word of each branch of a `{...}`.
fn heads(text: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let Some(body) = text.strip_prefix('{') else { return vec![word(text)] };
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (at, c) in body.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(word(&body[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(word(&body[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Why a module may not use another; none where it may.
fn objection(groups: &Groups, from: &str, to: &str) -> Option<String> {
    let (mine, theirs) = (groups.get(from)?, groups.get(to)?);
    let doors = groups.values().max()?;
    if from == to || theirs < mine || (mine == doors && theirs == doors) {
        return None;
    }
    let relation = if mine == theirs { "of its own group" } else { "of a later group" };
    Some(format!("{from} (group {mine}) uses {to} (group {theirs}), {relation}"))
}

#[test]
fn a_module_uses_only_earlier_groups() {
    let groups = groups(&read(&Path::new(ROOT).join("src/lib.rs")));
    let mut objections = Vec::new();
    for (path, text) in sources() {
        if path == Path::new("lib.rs") || path == Path::new("main.rs") {
            continue;
        }
        let module = path.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        assert!(groups.contains_key(module), "src/lib.rs lists no module {module}");
        let depth = path.components().count();
        for used in uses(&text, depth) {
            if let Some(objection) = objection(&groups, module, &used) {
                objections.push(format!("src/{}: {objection}", path.display()));
            }
        }
    }
    objections.dedup();
    assert!(objections.is_empty(), "\n{}", objections.join("\n"));
}

#[test]
fn the_layer_test_sees_what_it_must() {
    let groups = groups("// 1: low\npub mod a;\npub mod b;\n// 2: high\npub mod c;\npub mod d;\n");
    assert_eq!(objection(&groups, "c", "a"), None);
    assert_eq!(objection(&groups, "c", "d"), None, "doors may use each other");
    assert!(objection(&groups, "a", "b").unwrap().contains("its own group"));
    assert!(objection(&groups, "a", "c").unwrap().contains("a later group"));
    let text = "use crate::{a::X, b::{self, Y},\n c};\n// crate::d\nlet x = crate::d::z();";
    assert_eq!(uses(text, 1), ["a", "b", "c", "d"]);
    assert_eq!(uses("use super::super::e::X;", 2), ["e"]);
    assert!(!uses("use super::e::X;", 2).contains(&"e".into()));
}

#[test]
fn no_file_grows_past_one_idea() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES, "src/{} has {lines} lines: split it", path.display());
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "src/{}: no module doc", path.display());
    }
}

#[test]
fn source_is_ascii() {
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            assert!(line.is_ascii(), "src/{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn unsafe_has_an_address() {
    for (path, text) in sources() {
        if path.starts_with("sys") || path == Path::new("sys.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let is_unsafe = code
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe" || word == "unsafe_code");
            assert!(!is_unsafe, "src/{}:{}: belongs in sys: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn main_stays_a_door() {
    let lines = read(&Path::new(ROOT).join("src/main.rs")).lines().count();
    assert!(lines <= 20, "src/main.rs has {lines} lines; what it does belongs in cli");
}

/// The SHA-256 of bytes, as `sha256sum` prints it.
fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sources of a component at or below a path: what `wasm-policy/MANIFEST` says they are.
fn component_sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true => name != "target",
            false => {
                name.ends_with(".rs")
                    || name.ends_with(".wit")
                    || ["Cargo.toml", "Cargo.lock"].contains(&name)
            }
        }
    };
    entries.filter(wanted).flat_map(|path| component_sources(&path)).collect()
}

#[test]
fn policy_components_are_built_of_their_sources() {
    let root = Path::new(ROOT);
    let manifest = read(&root.join("wasm-policy/MANIFEST"));
    let mut components = 0;
    for line in manifest.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["toolchain", ..] => {}
            ["sources", sum, name, ref paths @ ..] => {
                let mut files: Vec<PathBuf> =
                    paths.iter().flat_map(|path| component_sources(&root.join(path))).collect();
                files.sort_by_key(|file| file.as_os_str().as_encoded_bytes().to_vec());
                let line = |file: &PathBuf| {
                    let path = file.strip_prefix(root).unwrap().display().to_string();
                    format!("{}  {path}\n", sha256(&fs::read(file).unwrap()))
                };
                let text: String = files.iter().map(line).collect();
                assert_eq!(sha256(text.as_bytes()), sum, "{name}: run scripts/guests/policy");
            }
            ["component", sum, _, path] => {
                components += 1;
                assert_eq!(sha256(&fs::read(root.join(path)).unwrap()), sum, "{path}");
            }
            _ => panic!("wasm-policy/MANIFEST: {line}"),
        }
    }
    assert!(components > 1, "the manifest names no components");
}

#[test]
fn every_suite_is_run_by_the_test_script() {
    let script = read(&Path::new(ROOT).join("scripts/test"));
    for path in rust_files(&Path::new(ROOT).join("tests")) {
        if path.parent() != Some(&Path::new(ROOT).join("tests")) {
            continue;
        }
        let suite = path.file_stem().unwrap().to_str().unwrap();
        let named = script
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
            .any(|word| word == suite);
        assert!(named, "tests/{suite}.rs is not named in scripts/test");
    }
}

/// A sweep dies at a point once: with two places of one name it would be chance which.
#[test]
fn every_crash_point_is_one_place() {
    let points = read(&Path::new(ROOT).join("src/failpoint.rs"));
    let points: Vec<&str> = points
        .lines()
        .filter_map(|line| line.strip_suffix("\",")?.trim().split_once(" = \""))
        .map(|(point, _)| point)
        .collect();
    assert!(points.len() > 30, "{points:?}");
    for point in points {
        let place = format!("reach(CrashPoint::{point})");
        let places: usize = sources().iter().map(|(_, text)| text.matches(&place).count()).sum();
        assert_eq!(places, 1, "{place}");
    }
}
