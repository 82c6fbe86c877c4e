//! The house keeps its order: floors, doors, and where unsafe code may stand.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// From the highest floor to the lowest; a floor uses what stands below it.
const FLOORS: [&[&str]; 4] = [
    &["sql"],
    &["encoder", "store"],
    &["model", "text", "image", "folder", "index"],
    &["embedding", "vector", "kernel", "sqlite", "error"],
];

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
                }
            }
        }
    }
    assert!(20 < files.len());
    files
}

fn module(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|it| it.contains(&module))
}

#[test]
fn arrows_point_down() {
    for (file, text) in sources() {
        let Some(here) = floor(&module(&file)) else {
            continue;
        };
        for line in text.lines().filter_map(|it| it.trim().strip_prefix("use crate::")) {
            let used: String = line.chars().take_while(|it| it.is_alphanumeric()).collect();
            let there = floor(&used).unwrap_or_else(|| panic!("{used} stands on no floor"));
            assert!(
                here < there || (here == there && (used == module(&file) || here != 1)),
                "{}: uses {used}, which does not stand below it",
                file.display()
            );
        }
    }
}

#[test]
fn unsafe_code_stays_behind_the_fence() {
    for (file, text) in sources() {
        let allowed = file.starts_with("sqlite") || file.starts_with("kernel");
        // The entry point itself is the one exception.
        if !allowed && file != Path::new("lib.rs") {
            assert!(!text.contains("allow(unsafe_code)"), "{}", file.display());
        }
    }
}

#[test]
fn one_package_one_door() {
    let doors = [
        ("ort::", "encoder"),
        ("tokenizers::", "text.rs"),
        ("sqlite3ext_sys", "sqlite"),
        ("sqlite_loadable", "sqlite"),
    ];
    for (file, text) in sources() {
        for (package, door) in doors {
            let used =
                text.lines().any(|it| it.trim_start().starts_with(&format!("use {package}")));
            assert!(!used || file.starts_with(door), "{} uses {package}", file.display());
        }
    }
}

/// The wheel reads it from Cargo.toml; npm cannot.
#[test]
fn the_node_package_has_the_crates_version() {
    let package = include_str!("../packages/node/package.json");
    let version = concat!("\"version\": \"", env!("CARGO_PKG_VERSION"), "\"");
    assert!(package.contains(version), "packages/node/package.json has not {version}");
}
