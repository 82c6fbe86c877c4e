//! The guide to training names every key of a run file.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use training::config::Run;

#[test]
fn the_guide_has_every_key_of_a_run_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(root.join("../docs/train.md")).unwrap();
    let run = root.join("runs/dualpath-quick.toml");
    let tables =
        ["data", "net", "loss", "augment", "stage.0", "stage.0.weights", "stage.0.factors"];
    for table in tables {
        let err = Run::read(&run, &[format!("{table}.no_such_key=1")]).unwrap_err();
        let message = format!("{err:#}");
        // "unknown field `no_such_key`, expected one of `form`, `captions`, ...\nin `data`"
        let known = message.split("expected one of").nth(1).and_then(|it| it.lines().next());
        let known = known.expect(&message);
        let keys: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        assert!(3 < keys.len(), "{message}");
        for key in keys {
            assert!(guide.contains(&format!("`{key}`")), "docs/train.md lacks {table}.{key}");
        }
    }
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
