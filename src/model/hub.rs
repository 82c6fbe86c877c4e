//! Folders as the Hugging Face hub and immich lay them out, read as a [`Model`].
//!
//! What such a folder does not say, the graphs do: names, types and the dimension.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{FORMAT, Graph, Manifest, Model, Sentences, hexadecimal};
use crate::error::{Error, Result};
use crate::image::{Filter, Pixels, Preprocess, Resize};
use crate::text::Words;

/// Where a layout keeps what is needed.
struct Layout {
    image_graph: &'static str,
    text_graph: &'static str,
    preprocess: &'static str,
    tokenizer: &'static str,
    tokenizer_config: &'static str,
    read: fn(&Value) -> std::result::Result<Preprocess, String>,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        image_graph: "onnx/vision_model.onnx",
        text_graph: "onnx/text_model.onnx",
        preprocess: "preprocessor_config.json",
        tokenizer: "tokenizer.json",
        tokenizer_config: "tokenizer_config.json",
        read: transformers,
    },
    Layout {
        image_graph: "visual/model.onnx",
        text_graph: "textual/model.onnx",
        preprocess: "visual/preprocess_cfg.json",
        tokenizer: "textual/tokenizer.json",
        tokenizer_config: "textual/tokenizer_config.json",
        read: open_clip,
    },
];
const CONFIG: &str = "config.json";
/// What a graph over two gigabytes keeps beside itself.
const WEIGHTS_BESIDE: [&str; 2] = ["_data", ".data"];
/// Most tokens that a sentence is filled up to.
const MOST_TOKENS: u64 = 4_096;

/// The folder as a model; none where it has another layout.
pub fn read(path: &Path) -> Option<Result<Model>> {
    let layout = LAYOUTS.iter().find(|it| path.join(it.image_graph).is_file())?;
    Some(model(path, layout).map_err(|reason| Error::ModelFolder { path: path.to_owned(), reason }))
}

fn model(path: &Path, layout: &Layout) -> std::result::Result<Model, String> {
    let text = |name: &str| std::fs::read(path.join(name)).map_err(|err| format!("{name}: {err}"));
    let json = |name: &str| -> std::result::Result<Value, String> {
        serde_json::from_slice(&text(name)?).map_err(|err| format!("{name}: {err}"))
    };
    let preprocess = json(layout.preprocess)?;
    let image =
        (layout.read)(&preprocess).map_err(|err| format!("{}: {err}", layout.preprocess))?;
    let optional = |name: &str| match path.join(name).exists() {
        true => json(name),
        false => Ok(Value::Null),
    };
    let config = optional(CONFIG)?;
    let tokenizer = text(layout.tokenizer)?;
    let about = optional(layout.tokenizer_config)?;
    let parsed: Value =
        serde_json::from_slice(&tokenizer).map_err(|err| format!("{}: {err}", layout.tokenizer))?;
    let length = context_length(&parsed, &about, &config).ok_or_else(|| {
        format!(
            "no context length (model_max_length in {}, or max_position_embeddings in {CONFIG})",
            layout.tokenizer_config
        )
    })?;
    let padding = padding(&parsed, &about, &config);
    let words = Words::with_marks(&tokenizer, length, padding)
        .map_err(|err| format!("{}: {err}", layout.tokenizer))?;
    let mut files = BTreeMap::new();
    for name in [layout.image_graph, layout.text_graph] {
        for beside in ["", WEIGHTS_BESIDE[0], WEIGHTS_BESIDE[1]] {
            let name = format!("{name}{beside}");
            if beside.is_empty() || path.join(&name).is_file() {
                let digest = digest(&path.join(&name)).map_err(|err| format!("{name}: {err}"))?;
                files.insert(name, digest);
            }
        }
    }
    for name in [layout.preprocess, layout.tokenizer, layout.tokenizer_config, CONFIG] {
        if let Ok(bytes) = text(name) {
            files.insert(name.to_owned(), super::sha256(&bytes));
        }
    }
    let folder = path.file_name().map(|it| it.to_string_lossy().into_owned());
    let name = config["_name_or_path"].as_str().map(str::to_owned).filter(|it| !it.is_empty());
    let manifest = Manifest {
        format: FORMAT,
        name: name.or(folder).unwrap_or_default(),
        // The graphs say, once they are open.
        dimension: 0,
        image,
        text: Sentences { length, dropped: None },
        files,
        notice: "the terms of those who published the model".to_owned(),
        recall: None,
    };
    let graph = |name: &str| Graph::File(path.join(name));
    Ok(Model {
        digest: manifest.digest(),
        manifest,
        words,
        image_graph: graph(layout.image_graph),
        text_graph: graph(layout.text_graph),
    })
}

/// Of a file that need not fit into memory, in hexadecimal.
fn digest(file: &PathBuf) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    Ok(hexadecimal(&digest.finalize()))
}

/// `preprocessor_config.json`, whose sides are numbers in old files and tables in new ones.
fn transformers(json: &Value) -> std::result::Result<Preprocess, String> {
    if json["do_resize"] == false || json["do_rescale"] == false {
        return Err("pictures are not resized or not rescaled (both are needed)".to_owned());
    }
    if let Some(factor) = json["rescale_factor"].as_f64()
        && 1e-6 < (factor - 1.0 / 255.0).abs()
    {
        return Err(format!("rescale_factor is {factor} (1 / 255 is what can be done)"));
    }
    let filter = match json["resample"].as_u64().unwrap_or(3) {
        2 => Filter::Bilinear,
        3 => Filter::Bicubic,
        other => return Err(format!("resample is {other} (2, bilinear, or 3, bicubic)")),
    };
    let crop = match json["do_center_crop"].as_bool() {
        Some(crop) => crop,
        None => json["size"].get("shortest_edge").is_some(),
    };
    let whole = match (square(&json["size"]), json["size"].get("shortest_edge").and_then(side)) {
        (_, Some(edge)) | (Some(edge), None) if crop && json["size"].get("height").is_none() => {
            let size = square(&json["crop_size"]).unwrap_or(edge);
            (size, Resize::Crop, Some(edge))
        }
        (Some(size), None) => match square(&json["crop_size"]) {
            Some(cropped) if crop && cropped != size => {
                return Err(format!("{cropped} pixels are cut out of {size} x {size}, squashed"));
            }
            _ => (size, Resize::Squash, None),
        },
        _ => return Err(format!("size is {} (a square is what can be done)", json["size"])),
    };
    let (mean, std) = match json["do_normalize"] == false {
        true => ([0.0; 3], [1.0; 3]),
        false => (three(json, "image_mean")?, three(json, "image_std")?),
    };
    let (size, resize, shortest_edge) = whole;
    sound(Preprocess { size, resize, mean, std, filter, shortest_edge, pixels: Pixels::Floats })
}

/// immich's `preprocess_cfg.json`, which is OpenCLIP's.
fn open_clip(json: &Value) -> std::result::Result<Preprocess, String> {
    let size = match &json["size"] {
        Value::Array(sides) => match sides.as_slice() {
            [height, width] if height == width => side(height),
            _ => None,
        },
        other => side(other),
    };
    let size = size.ok_or_else(|| format!("size is {} (a square)", json["size"]))?;
    let filter = match json["interpolation"].as_str().unwrap_or("bicubic") {
        "bicubic" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        other => return Err(format!("interpolation is {other} (bicubic or bilinear)")),
    };
    let (resize, shortest_edge) = match json["resize_mode"].as_str().unwrap_or("shortest") {
        "shortest" => (Resize::Crop, Some(size)),
        "squash" => (Resize::Squash, None),
        other => return Err(format!("resize_mode is {other} (shortest or squash)")),
    };
    let (mean, std) = (three(json, "mean")?, three(json, "std")?);
    sound(Preprocess { size, resize, mean, std, filter, shortest_edge, pixels: Pixels::Floats })
}

fn sound(it: Preprocess) -> std::result::Result<Preprocess, String> {
    if !(1..=4_096).contains(&it.size) {
        return Err(format!("the square has {} pixels a side (1 to 4096)", it.size));
    }
    if let Some(edge) = it.shortest_edge.filter(|edge| !(it.size..=4_096).contains(edge)) {
        return Err(format!("the shortest edge is {edge}, the square {} (1 to 4096)", it.size));
    }
    if it.std.iter().any(|it| it.is_nan() || *it <= 0.0) {
        return Err(format!("the deviation is {:?} (above 0)", it.std));
    }
    Ok(it)
}

/// A number, or a table of two equal ones.
fn square(value: &Value) -> Option<u32> {
    match (side(value), value.get("height").and_then(side), value.get("width").and_then(side)) {
        (Some(side), ..) => Some(side),
        (None, Some(height), Some(width)) if height == width => Some(height),
        _ => None,
    }
}

fn side(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|it| u32::try_from(it).ok())
}

fn three(json: &Value, key: &str) -> std::result::Result<[f32; 3], String> {
    serde_json::from_value(json[key].clone())
        .map_err(|_| format!("{key} is {} (three numbers)", json[key]))
}

fn context_length(tokenizer: &Value, about: &Value, config: &Value) -> Option<usize> {
    let places = [
        &config["text_config"]["max_position_embeddings"],
        &config["text_cfg"]["context_length"],
        &about["model_max_length"],
        &tokenizer["truncation"]["max_length"],
    ];
    // transformers writes 1e30 for "as long as you like".
    let said = places.into_iter().filter_map(Value::as_u64);
    said.filter(|it| (1..=MOST_TOKENS).contains(it)).min().map(|it| it as usize)
}

fn padding(tokenizer: &Value, about: &Value, config: &Value) -> i64 {
    let token = match &about["pad_token"] {
        Value::String(token) => Some(token.as_str()),
        table => table["content"].as_str(),
    };
    let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
    let named = token.and_then(|token| {
        let vocabulary = &tokenizer["model"]["vocab"];
        added
            .filter(|it| it["content"] == token)
            .find_map(|it| it["id"].as_i64())
            .or_else(|| vocabulary.get(token).and_then(Value::as_i64))
    });
    named
        .or_else(|| tokenizer["padding"]["pad_id"].as_i64())
        .or_else(|| config["text_config"]["pad_token_id"].as_i64())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(size: Value, crop: Value) -> Value {
        json!({"size": size, "crop_size": crop, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    }

    fn form(json: &Value) -> (u32, Resize, Option<u32>) {
        let it = transformers(json).unwrap();
        (it.size, it.resize, it.shortest_edge)
    }

    /// CLIP of 2021 and of today, SigLIP, ViT.
    #[test]
    fn old_and_new_forms_of_sizes() {
        let mut old = with(json!(224), json!(224));
        old["do_center_crop"] = json!(true);
        assert_eq!(form(&old), (224, Resize::Crop, Some(224)));
        let new = with(json!({"shortest_edge": 256}), json!({"height": 224, "width": 224}));
        assert_eq!(form(&new), (224, Resize::Crop, Some(256)));
        let siglip = with(json!({"height": 384, "width": 384}), Value::Null);
        assert_eq!(form(&siglip), (384, Resize::Squash, None));
        assert_eq!(form(&with(json!(196), Value::Null)), (196, Resize::Squash, None));
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let square = with(json!({"height": 8, "width": 8}), Value::Null);
        let refused = |key: &str, value: Value| {
            let mut json = square.clone();
            json[key] = value;
            transformers(&json).unwrap_err()
        };
        assert!(refused("size", json!({"height": 8, "width": 9})).contains("a square"));
        assert!(refused("size", json!({"longest_edge": 9})).contains("a square"));
        assert!(refused("resample", json!(0)).contains("resample is 0"));
        assert!(refused("rescale_factor", json!(1)).contains("1 / 255"));
        assert!(refused("do_rescale", json!(false)).contains("not rescaled"));
        assert!(refused("image_mean", json!([0.5])).contains("three numbers"));
        assert!(refused("image_std", json!([0, 1, 1])).contains("above 0"));
        assert!(refused("size", json!(0)).contains("0 pixels"));
    }

    #[test]
    fn immichs_form() {
        let json = json!({"size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1], "resize_mode": "squash", "interpolation": "bilinear"});
        let read = open_clip(&json).unwrap();
        assert_eq!((read.size, read.resize, read.filter), (8, Resize::Squash, Filter::Bilinear));
        let json = json!({"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]});
        let read = open_clip(&json).unwrap();
        assert_eq!((read.resize, read.shortest_edge), (Resize::Crop, Some(8)));
        assert_eq!(read.filter, Filter::Bicubic);
    }

    #[test]
    fn lengths_and_padding_are_where_they_are() {
        let clip = json!({"added_tokens": [{"id": 49407, "content": "<|endoftext|>"}], "truncation": null, "padding": null});
        let about = json!({"model_max_length": 77, "pad_token": "<|endoftext|>"});
        assert_eq!(context_length(&clip, &about, &Value::Null), Some(77));
        assert_eq!(padding(&clip, &about, &Value::Null), 49407);
        let endless = json!({"model_max_length": 1e30, "pad_token": {"content": "</s>"}});
        let config = json!({"text_config": {"max_position_embeddings": 64, "pad_token_id": 1}});
        assert_eq!(context_length(&clip, &endless, &config), Some(64));
        assert_eq!(padding(&clip, &endless, &config), 1);
        assert_eq!(context_length(&clip, &endless, &Value::Null), None);
    }
}
