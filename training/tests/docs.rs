//! The guide to training names every key of a run file.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use training::config::Run;

#[test]
fn the_guide_has_every_key_of_a_run_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("../docs/train.md")).unwrap();
    let run = root.join("runs/flickr8k-taught.toml");
    let tables = [
        "data",
        "net",
        "loss",
        "augment",
        "teacher",
        "stage.0",
        "stage.0.weights",
        "stage.0.factors",
    ];
    for table in tables {
        let err = Run::read(&run, &[format!("{table}.no_such_key=1")]).unwrap_err();
        let message = format!("{err:#}");
        // "unknown field `no_such_key`, expected one of `form`, `captions`, ...\nin `data`"
        let known = message.split("expected ").nth(1).and_then(|it| it.lines().next());
        let known = known.expect(&message);
        let keys: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        assert!(1 < keys.len(), "{message}");
        for key in keys {
            assert!(guide.contains(&format!("`{key}`")), "docs/train.md lacks {table}.{key}");
        }
    }
}

/// Commands of the pages and help pages are understood, up to the data that are not here; `small_run.rs` runs
/// each verb on pictures that it draws.
#[test]
fn commands_of_the_pages_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let train = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        let output = command.args(arguments).current_dir(&root).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let pages = ["README.md", "docs/train.md"];
    let mut texts: Vec<String> =
        pages.iter().map(|it| std::fs::read_to_string(root.join(it)).unwrap()).collect();
    for verb in ["prepare", "fit", "eval", "export", "quantize", "half"] {
        texts.push(train(&[verb, "--help"]).1);
    }
    let mut count = 0;
    for line in texts.iter().flat_map(|it| it.lines()).map(str::trim) {
        let by_cargo = line.strip_prefix("cargo run --release -p training -- ");
        let Some(command) = by_cargo.or_else(|| line.strip_prefix("train ")) else { continue };
        // What it is for stands behind it.
        let command = command
            .split("  #")
            .next()
            .unwrap()
            .replace("RUN.toml", "training/runs/own-pictures.toml");
        let command = command.replace("--data DATA", "--data /no/such/data");
        let command = command.replace("--data FOLDER", "--data /no/such/data");
        let behind = ["    goes on", "    COCO's"];
        let command =
            behind.iter().fold(command.as_str(), |it, words| it.split(words).next().unwrap());
        let (status, said) = train(&command.split_whitespace().collect::<Vec<_>>());
        // What is not understood ends with 2.
        assert_eq!(status, Some(1), "{command}\n{said}");
        count += 1;
    }
    assert!(18 <= count, "{count}");
}

/// Each with its data's paths, losses and stages in order.
#[test]
fn every_run_file_is_read() {
    let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs");
    let mut count = 0;
    for entry in std::fs::read_dir(runs).unwrap() {
        let file = entry.unwrap().path();
        let run = Run::read(&file, &[]).unwrap();
        assert_eq!(file.file_stem().unwrap().to_str().unwrap(), run.name);
        count += 1;
    }
    assert!(9 <= count, "{count} run files");
}
