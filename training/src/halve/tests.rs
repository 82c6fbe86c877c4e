//! Half precision stands for the graph's own, which is its exact twin.
#![allow(clippy::unwrap_used)]

use dualpath::encoder;
use dualpath::image::{Pixels, Preprocess, Resize};
use dualpath::model::half::{halved, taking_bytes};
use dualpath::model::protobuf::{FLOAT, FLOAT16, Graph, Model, Node};
use dualpath::model::{MANIFEST, Manifest, Model as Folder};
use ndarray::{Array2, Array4};
use ort::value::Tensor;
use prost::Message;

use super::halve;
use crate::folder;
use crate::net::Pooling;
use crate::net::image::{self, Backbone, Head, Stride};
use crate::net::text::{self, Form};
use crate::onnx::{Input, Precision};
use crate::testing::{WIDTH, embedded, written};

fn assert_alike(exact: &[Vec<f32>], half: &[Vec<f32>]) {
    assert_eq!(exact.len(), half.len());
    for (exact, half) in exact.iter().zip(half) {
        let cosine: f32 = exact.iter().zip(half).map(|(a, b)| a * b).sum();
        assert!(0.9999 < cosine && cosine < 1.0001, "cosine {cosine}");
    }
}

fn read(file: &[u8]) -> Graph {
    Model::decode(file).unwrap().graph.unwrap()
}

/// Every convolution takes float16, which is stored so.
fn assert_half(file: &[u8]) {
    let graph = read(file);
    let constant = |name: &str| graph.initializer.iter().find(|it| it.name == name);
    let mut convolutions = 0;
    for node in graph.node.iter().filter(|it| it.op_type == "Conv") {
        for weight in &node.input[1..] {
            assert_eq!(constant(weight).unwrap().data_type, FLOAT16, "{weight}");
        }
        convolutions += 1;
    }
    assert!(convolutions > 0);
    // What would leave float16's range is cast before.
    let wide = |it: &&Node| ["ReduceL2", "Pow"].contains(&it.op_type.as_str());
    let first = graph.node.iter().find(wide).unwrap();
    let before = graph.node.iter().find(|it| it.output[0] == first.input[0]).unwrap();
    assert_eq!(before.op_type, "Cast");
    assert_eq!(before.attribute[0].i, Some(i64::from(FLOAT)));
}

#[test]
fn a_halved_image_path_says_the_same() {
    // Before any tensor: it knows where ONNX Runtime lies.
    encoder::environment().unwrap();
    for (pooling, precision) in
        [(Pooling::MeanMax, Precision::Half), (Pooling::Gem, Precision::Full)]
    {
        let head = Head { pooling, hidden: 64, dimension: WIDTH, dropout: 0.0 };
        let path = image::path(Backbone::MobileNetV2, Stride::Middle, &head);
        let graph = written(&path, Input::Pixels(&[3, 64, 64]), precision);
        let half = halved(&graph).unwrap();
        assert_half(&half);
        let (before, after) = (read(&graph), read(&half));
        let clips = |it: &Graph| it.node.iter().filter(|it| it.op_type == "Clip").count();
        // Where it is pooled it stays.
        assert_eq!((clips(&before), clips(&after)), (35, 1));
        assert_eq!((before.input, before.output), (after.input, after.output));
        let casts = |it: &&Node| it.op_type == "Cast" && it.input[0] == "pixels";
        assert_eq!(after.node.iter().filter(casts).count(), 1);
        let pictures = Array4::from_shape_fn((8, 3, 64, 64), |(row, channel, y, x)| {
            let turn = (row + 1) as f32 * 0.05;
            ((x as f32 * turn) + (y as f32 * (0.7 - turn)) + channel as f32).sin()
        });
        let tensor = || Tensor::from_array(pictures.clone()).unwrap().into();
        assert_alike(&embedded(&graph, tensor()), &embedded(&half, tensor()));
        // What is half already stays as it is.
        let again = halved(&half).unwrap();
        assert_alike(&embedded(&half, tensor()), &embedded(&again, tensor()));
        assert_eq!(read(&again).node.len(), read(&half).node.len());
    }
}

#[test]
fn a_halved_text_path_says_the_same() {
    encoder::environment().unwrap();
    for form in [Form::FlatMeanMax, Form::Strided] {
        for precision in [Precision::Half, Precision::Full] {
            let path = text::path(form, 50, WIDTH, 0.0);
            let graph = written(&path, Input::Tokens(16), precision);
            let half = halved(&graph).unwrap();
            assert_half(&half);
            let tokens = Array2::from_shape_fn((40, 16), |(row, at)| match at < 3 + row % 13 {
                true => (1 + (row * 7 + at * 3) % 49) as i64,
                false => 0,
            });
            let tensor = || Tensor::from_array(tokens.clone()).unwrap().into();
            assert_alike(&embedded(&graph, tensor()), &embedded(&half, tensor()));
        }
    }
}

fn preprocess() -> Preprocess {
    Preprocess {
        size: 64,
        resize: Resize::Squash,
        mean: [0.5, 0.4, 0.3],
        std: [0.5, 0.25, 0.3],
        filter: Default::default(),
        shortest_edge: None,
        pixels: Pixels::Floats,
    }
}

fn image_path() -> Vec<u8> {
    let head = Head { pooling: Pooling::MeanMax, hidden: 64, dimension: WIDTH, dropout: 0.0 };
    let path = image::path(Backbone::MobileNetV2, Stride::Middle, &head);
    written(&path, Input::Pixels(&[3, 64, 64]), Precision::Half)
}

#[test]
fn bytes_are_normalised_as_the_extension_does_it() {
    encoder::environment().unwrap();
    let (graph, preprocess) = (image_path(), preprocess());
    let bytes = Array4::from_shape_fn((4, 64, 64, 3), |(row, y, x, channel)| {
        (37 * row + 3 * x + 2 * y * row + 50 * channel) as u8
    });
    let mut floats = Array4::zeros((4, 3, 64, 64));
    for (bytes, plane) in bytes.outer_iter().zip(floats.outer_iter_mut()) {
        let square = bytes.iter().copied().collect();
        let picture = ::image::RgbImage::from_raw(64, 64, square).unwrap();
        preprocess.write(&picture, plane).unwrap();
    }
    let taking = taking_bytes(&graph, &preprocess).unwrap();
    let expected = embedded(&graph, Tensor::from_array(floats).unwrap().into());
    let found = embedded(&taking, Tensor::from_array(bytes).unwrap().into());
    for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
        assert!((expected - found).abs() < 1e-5, "{expected} and {found}");
    }
}

/// Encoded by the extension, whole and one by one, and not halved again.
#[test]
fn a_halved_folder_says_the_same() {
    encoder::environment().unwrap();
    let place = tempfile::tempdir().unwrap();
    let [from, to, again] = ["from", "to", "again"].map(|it| place.path().join(it));
    let tokenizer = include_bytes!("../../../models/default/tokenizer.json");
    let manifest = include_bytes!("../../../models/default/dualpath.json");
    let mut manifest: Manifest = serde_json::from_slice(manifest).unwrap();
    manifest.image = preprocess();
    manifest.dimension = WIDTH as usize;
    let text = text::path(Form::FlatMeanMax, 10_000, WIDTH, 0.0);
    let text = written(&text, Input::Tokens(manifest.text.length as i64), Precision::Half);
    folder::write_unmeasured(&from, &mut manifest, [&image_path(), &text, tokenizer]).unwrap();
    halve(&from, &to).unwrap();
    let halved = Folder::from_folder(&to).unwrap();
    assert_eq!(halved.manifest.image, Preprocess { pixels: Pixels::Bytes, ..preprocess() });
    let refused = halve(&to, &again).unwrap_err().to_string();
    assert!(refused.contains("in half precision already") && !again.exists(), "{refused}");

    let picture = |number: u8| {
        let mut file = std::io::Cursor::new(Vec::new());
        let drawn = ::image::RgbImage::from_fn(90, 70, |x, y| {
            ::image::Rgb([6 * number, (3 * x) as u8, (2 * y) as u8])
        });
        drawn.write_to(&mut file, ::image::ImageFormat::Png).unwrap();
        file.into_inner()
    };
    let mut files: Vec<Vec<u8>> = (0..40).map(picture).collect();
    files[3] = b"no picture".to_vec();
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let [exact, half] = [("exact", &from), ("half", &to)].map(|(name, folder)| {
        let encoder = encoder::load(name, folder).unwrap();
        let rows = encoder.pictures(&files).into_iter().enumerate().filter_map(|(at, row)| {
            assert_eq!(row.is_err(), at == 3);
            row.ok()
        });
        let mut rows: Vec<Vec<f32>> = rows.map(|it| it.as_slice().to_vec()).collect();
        rows.push(encoder.picture(files[7]).unwrap().as_slice().to_vec());
        rows
    });
    assert_alike(&exact, &half);
    assert!(std::fs::read_to_string(to.join(MANIFEST)).unwrap().contains(r#""pixels": "bytes""#));
}
