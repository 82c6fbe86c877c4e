//! What ONNX Runtime computes from an exported graph is what libtorch computes from the net.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::value::Tensor as Value;
use tch::{Device, Kind, Tensor};
use training::net::image::{self, Backbone, Head, Stride};
use training::net::text::{self, Form};
use training::net::{self, Layer, Pooling, Querybank, Side};
use training::onnx::{Input, Precision, write};
use training::torch::{Mode, Parameters, forward, numbers};

const MOST_DIFFERENCE: f64 = 1e-4;

/// Random weights, and norms that have seen data: the moments of a fresh net would fold to nothing.
fn lived_in(path: &[Layer]) -> Parameters {
    tch::manual_seed(7);
    let parameters = Parameters::fresh(path, Device::Cpu);
    for (name, tensor) in parameters.iter() {
        let mut tensor = tensor.shallow_clone();
        if name.ends_with(".running_mean") {
            let _ = tensor.normal_(0.0, 0.5);
        } else if name.ends_with(".running_var") {
            let _ = tensor.uniform_(0.5, 2.0);
        } else if name.contains("bn3.weight") || name.contains("downsample.1.weight") {
            // Or a hundred random units on top of each other leave the range of float32.
            let _ = tensor.fill_(0.3);
        } else if name.ends_with(".bias") {
            let _ = tensor.normal_(0.0, 0.1);
        }
    }
    parameters
}

/// Looked for as the extension does: the variable, then beside the built library.
fn runtime() -> ort::environment::Environment {
    let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    let found = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).or_else(|| {
        let mut files = std::fs::read_dir(target).unwrap().map(|it| it.unwrap().path());
        files.find(|it| it.file_name().unwrap().to_string_lossy().starts_with("libonnxruntime.so"))
    });
    let library = found.expect("ONNX Runtime is missing: run scripts/onnxruntime");
    ort::init_from(library).unwrap().build().unwrap()
}

fn run(
    session: &mut Session,
    input: impl Into<ort::session::SessionInputValue<'static>>,
) -> Vec<f32> {
    let outputs = session.run(ort::inputs![input]).unwrap();
    outputs["embedding"].try_extract_tensor::<f32>().unwrap().1.to_vec()
}

fn most_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// Flickr8k's validation pictures where they lie beside the project, else coloured noise.
fn pictures(count: i64, size: i64) -> Tensor {
    let tar = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/flickr8k/val.tar");
    let Ok(file) = std::fs::File::open(tar) else {
        println!("skipped: no ../shared, so noise stands in for photographs");
        return Tensor::rand([count, 3, size, size], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    };
    let preprocess = dualpath::image::Preprocess {
        size: size as u32,
        resize: dualpath::image::Resize::Squash,
        mean: [0.5; 3],
        std: [0.5; 3],
        filter: dualpath::image::Filter::default(),
        shortest_edge: None,
        pixels: dualpath::image::Pixels::Floats,
    };
    let mut pixels = ndarray::Array4::zeros((count as usize, 3, size as usize, size as usize));
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries().unwrap().map(Result::unwrap);
    let jpegs = entries.filter(|it| it.header().entry_type().is_file());
    for (mut entry, plane) in jpegs.zip(pixels.outer_iter_mut()) {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        preprocess.write(&dualpath::image::decode(&bytes).unwrap(), plane).unwrap();
    }
    Tensor::from_slice(pixels.as_slice().unwrap()).view((count, 3, size, size))
}

fn mobilenet() -> (Vec<Layer>, Parameters) {
    let head = Head { pooling: Pooling::MeanMax, hidden: 256, dimension: 128, dropout: 0.2 };
    let path = image::path(Backbone::MobileNetV2, Stride::Middle, &head);
    let mut parameters = lived_in(&path);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/weights");
    let pretrained = shared.join("mobilenet_v2_dequant_fp32.safetensors");
    if pretrained.exists() {
        let names: Vec<String> =
            parameters.iter().map(|it| it.0.clone()).filter(|it| it.starts_with("conv")).collect();
        assert!(parameters.load(&pretrained, &names).unwrap().is_empty());
    }
    (path, parameters)
}

/// The graph's and libtorch's embeddings of the same pictures, one by one and together.
fn images_agree(
    environment: &ort::environment::Environment,
    name: &str,
    (path, parameters): &(Vec<Layer>, Parameters),
    size: i64,
    batches: &[i64],
) {
    let values = |name: &str| numbers(parameters.get(name));
    let bytes = write(path, Input::Pixels(&[3, size, size]), 128, Precision::Full, values);
    let mut session = Session::builder(environment).unwrap().commit_from_memory(&bytes).unwrap();
    for batch in batches {
        let input = pictures(*batch, size);
        let expected = numbers(&tch::no_grad(|| forward(path, parameters, &input, Mode::Eval)));
        let value = Value::from_array(([*batch, 3, size, size], numbers(&input))).unwrap();
        let got = run(&mut session, value);
        let difference = most_difference(&expected, &got);
        println!("{name}, batch {batch}: most difference {difference:.1e}");
        assert!(difference <= MOST_DIFFERENCE, "{name}: {difference}");
        for row in got.chunks_exact(128) {
            let length: f32 = row.iter().map(|it| it * it).sum();
            assert!((length - 1.0).abs() < 1e-5);
        }
    }
}

/// One test, since a process opens ONNX Runtime once.
#[test]
fn exported_graphs_agree_with_libtorch() {
    let environment = runtime();

    let net = mobilenet();
    images_agree(&environment, "MobileNetV2", &net, 96, &[1, 5]);
    half_precision_keeps_embeddings(&environment, &net);

    let path = |backbone, stride, pooling| {
        let head = Head { pooling, hidden: 256, dimension: 128, dropout: 0.2 };
        let path = image::path(backbone, stride, &head);
        let parameters = lived_in(&path);
        (path, parameters)
    };
    let (first, middle) = (Stride::First, Stride::Middle);
    for (name, backbone, stride, pooling, size) in [
        ("ResNet-18, GeM", Backbone::ResNet18, middle, Pooling::Gem, 96),
        ("ResNet-50, stride on the 3x3", Backbone::ResNet50, middle, Pooling::Mean, 96),
        ("ResNet-50, stride on the first 1x1", Backbone::ResNet50, first, Pooling::Mean, 224),
        ("ResNet-152", Backbone::ResNet152, first, Pooling::Max, 64),
        ("VGG-19", Backbone::Vgg19, middle, Pooling::Mean, 224),
    ] {
        images_agree(&environment, name, &path(backbone, stride, pooling), size, &[2]);
    }

    for form in [Form::Paper, Form::Strided, Form::Flat, Form::FlatMeanMax] {
        for placements in [1, 4, 32] {
            texts_agree(&environment, form, placements);
        }
    }
}

fn half_precision_keeps_embeddings(
    environment: &ort::environment::Environment,
    (path, parameters): &(Vec<Layer>, Parameters),
) {
    let size = 96;
    let [mut full, mut half] = [Precision::Full, Precision::Half].map(|precision| {
        let values = |name: &str| numbers(parameters.get(name));
        let bytes = write(path, Input::Pixels(&[3, size, size]), 128, precision, values);
        Session::builder(environment).unwrap().commit_from_memory(&bytes).unwrap()
    });
    let input = pictures(4, size);
    let value = |it: &Tensor| Value::from_array(([4, 3, size, size], numbers(it))).unwrap();
    let (full, half) = (run(&mut full, value(&input)), run(&mut half, value(&input)));
    for (a, b) in full.chunks_exact(128).zip(half.chunks_exact(128)) {
        let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        assert!(0.999 < cosine, "half-precision weights turned an embedding to {cosine}");
    }
}

fn texts_agree(environment: &ort::environment::Environment, form: Form, placements: i64) {
    let mut path = text::shifted(&text::path(form, 50, 124, 0.2), placements);
    path.push(Layer::Querybank(Querybank {
        name: "querybank".to_owned(),
        prototypes: 6,
        width: 124,
        sharpness: 10.0,
        side: Side::Sentence,
    }));
    let parameters = lived_in(&path);
    let values = |name: &str| numbers(parameters.get(name));
    let bytes = write(&path, Input::Tokens(32), 128, Precision::Full, values);
    let mut session = Session::builder(environment).unwrap().commit_from_memory(&bytes).unwrap();
    // Left-aligned, shifted, full, one word, and no word at all.
    let mut ids = vec![0i64; 5 * 32];
    ids[..4].copy_from_slice(&[3, 9, 1, 49]);
    ids[32 + 11..32 + 15].copy_from_slice(&[3, 9, 1, 49]);
    ids[64..96].fill(7);
    ids[96] = 2;
    let tokens = Tensor::from_slice(&ids).view((5, 32));
    let expected = numbers(&tch::no_grad(|| forward(&path, &parameters, &tokens, Mode::Eval)));
    let got = run(&mut session, Value::from_array(([5, 32], ids.clone())).unwrap());
    let difference = most_difference(&expected, &got);
    if net::ignores_padding(&path) {
        // The extension cuts padding off.
        let cut = run(&mut session, Value::from_array(([1, 4], ids[..4].to_vec())).unwrap());
        let difference = most_difference(&expected[..128], &cut);
        assert!(difference <= MOST_DIFFERENCE, "{form:?} without padding: {difference}");
    }
    println!("{form:?} text path, {placements} placements: most difference {difference:.1e}");
    assert!(difference <= MOST_DIFFERENCE, "{form:?}: {difference}");
}
