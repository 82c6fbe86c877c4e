//! Models in the layouts of the Hugging Face hub and of immich, on tiny graphs of the real names and
//! shapes that `tests/hub/write.py` wrote.
#![allow(clippy::unwrap_used)]

mod host;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};
use rusqlite::{Connection, params};

const LAYOUTS: [&str; 3] = ["clip", "siglip", "immich"];
const COLOURS: [(&str, [u8; 3]); 3] =
    [("red", [255, 0, 0]), ("green", [0, 255, 0]), ("blue", [0, 0, 255])];

fn folder(layout: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub").join(layout)
}

fn load(connection: &Connection, name: &str, folder: &Path) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO dualpath_models(name, path) VALUES (?1, ?2)";
    connection.execute(insert, params![name, folder.to_str().unwrap()])
}

fn picture(colour: [u8; 3], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(colour))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A copy of a layout to change.
fn copy(layout: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        std::fs::create_dir_all(target.path().join(&inner)).unwrap();
        for entry in std::fs::read_dir(folder(layout).join(&inner)).unwrap() {
            let (from, inner) = {
                let entry = entry.unwrap();
                (entry.path(), inner.join(entry.file_name()))
            };
            if from.is_dir() {
                folders.push(inner);
            } else {
                std::fs::copy(from, target.path().join(inner)).unwrap();
            }
        }
    }
    target
}

#[test]
fn sentences_find_pictures_in_every_layout() {
    host::runtime();
    for layout in LAYOUTS {
        let connection = host::memory();
        load(&connection, layout, &folder(layout)).unwrap();
        let dimension = "SELECT dimension FROM dualpath_models WHERE name = ?1";
        let dimension: i64 = connection.query_row(dimension, [layout], |it| it.get(0)).unwrap();
        assert_eq!(dimension, 12, "{layout}");
        connection
            .execute_batch(&format!(
                "CREATE VIRTUAL TABLE album USING dualpath(model = '{layout}'); BEGIN"
            ))
            .unwrap();
        for (row, (_, colour)) in COLOURS.iter().enumerate() {
            let insert = "INSERT INTO album(rowid, image) VALUES (?1, ?2)";
            connection.execute(insert, params![row as i64, picture(*colour, 30, 20)]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        for (row, (name, _)) in COLOURS.iter().enumerate() {
            let ask = "SELECT rowid FROM album WHERE text MATCH ?1 ORDER BY distance LIMIT 1";
            let asked = [format!("a {name} picture"), format!("{name} a a a a picture a a a")];
            for sentence in asked {
                let found: i64 = connection.query_row(ask, [&sentence], |it| it.get(0)).unwrap();
                assert_eq!(found, row as i64, "{layout}: {sentence}");
            }
        }
        // Models are the process's: the other tests' stay.
        let drop = format!("DROP TABLE album; DELETE FROM dualpath_models WHERE name = '{layout}'");
        connection.execute_batch(&drop).unwrap();
    }
}

/// One by one or together, alone or beside a longer one: a sentence is the same point.
#[test]
fn padding_is_masked_or_whole() {
    host::runtime();
    for layout in LAYOUTS {
        let connection = host::memory();
        let name = format!("padded-{layout}");
        load(&connection, &name, &folder(layout)).unwrap();
        connection
            .execute_batch(&format!(
                "CREATE VIRTUAL TABLE album USING dualpath(model = '{name}');
                 INSERT INTO album(text) VALUES ('red'), ('a blue picture a'), ('green');"
            ))
            .unwrap();
        for (row, sentence) in [(1, "red"), (2, "a blue picture a"), (3, "green")] {
            let apart =
                "SELECT embed_distance(embedding, embed_text(?2, ?3)) FROM album WHERE rowid = ?1";
            let apart: f64 =
                connection.query_row(apart, params![row, sentence, name], |it| it.get(0)).unwrap();
            assert!(apart.abs() < 1e-6, "{layout}: {sentence}: {apart}");
        }
    }
}

#[test]
fn a_changed_file_is_another_model() {
    host::runtime();
    let connection = host::memory();
    let folder = copy("clip");
    load(&connection, "changing", folder.path()).unwrap();
    load(&connection, "changing", folder.path()).unwrap();
    let file = folder.path().join("preprocessor_config.json");
    let text = std::fs::read_to_string(&file).unwrap().replace("0.5", "0.25");
    std::fs::write(&file, text).unwrap();
    let refused = host::message(load(&connection, "changing", folder.path()));
    assert!(refused.contains("is loaded already, with digest"), "{refused}");
}

#[test]
fn what_a_folder_lacks_is_said() {
    host::runtime();
    let connection = host::memory();
    let refused = |layout: &str, change: &dyn Fn(&Path), words: &str| {
        let folder = copy(layout);
        change(folder.path());
        let message = host::message(load(&connection, "bad", folder.path()));
        assert!(message.contains(words), "{message}");
    };
    let remove = |file: &'static str| move |at: &Path| std::fs::remove_file(at.join(file)).unwrap();
    let write = |file: &'static str, text: &'static str| {
        move |at: &Path| std::fs::write(at.join(file), text).unwrap()
    };
    refused("clip", &remove("tokenizer.json"), "tokenizer.json: No such file");
    refused("clip", &remove("preprocessor_config.json"), "preprocessor_config.json: No such file");
    refused("clip", &remove("onnx/text_model.onnx"), "onnx/text_model.onnx: No such file");
    refused("immich", &remove("textual/tokenizer.json"), "textual/tokenizer.json: No such file");
    refused("clip", &write("config.json", "{"), "config.json: EOF");
    refused("clip", &write("tokenizer.json", "{}"), "tokenizer.json: ");
    refused("clip", &write("onnx/vision_model.onnx", "no graph"), "vision_model.onnx is refused");
    refused("immich", &write("visual/preprocess_cfg.json", r#"{"size": 8}"#), "mean is null");
    let no_length = |at: &Path| {
        remove("config.json")(at);
        write("tokenizer_config.json", "{}")(at);
    };
    refused("clip", &no_length, "no context length");
    // What lies where the other should.
    let swapped = |at: &Path| {
        std::fs::copy(at.join("onnx/text_model.onnx"), at.join("onnx/vision_model.onnx")).unwrap();
    };
    refused("clip", &swapped, "where pixels of any name");
    let doubled = |at: &Path| {
        std::fs::copy(at.join("onnx/vision_model.onnx"), at.join("onnx/text_model.onnx")).unwrap();
    };
    refused("clip", &doubled, "where input_ids or text");
    let other_size = |at: &Path| {
        let file = at.join("preprocessor_config.json");
        let text = std::fs::read_to_string(&file).unwrap().replace(": 8", ": 9");
        std::fs::write(file, text).unwrap();
    };
    refused("clip", &other_size, "has pixel_values f32 (any, 3, 8, 8) where pixels");
    refused("clip", &other_size, "(batch, 3, 9, 9)");
}
