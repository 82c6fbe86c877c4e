//! Whole numbers stand for the graph's own, which is their slow twin.
#![allow(clippy::unwrap_used)]

use dualpath::encoder;
use dualpath::model::half::{halved, halved_if_quantized};
use dualpath::model::protobuf::Model;
use ndarray::{Array2, Array4};
use ort::value::Tensor;
use prost::Message;

use super::graph::{quantized, scale};
use super::ranges;
use crate::net::Pooling;
use crate::net::image::{self, Backbone, Head, Stride};
use crate::net::text::{self, Form};
use crate::onnx::{Input, Precision};
use crate::testing::{embedded, written};

fn assert_alike(exact: &[Vec<f32>], whole: &[Vec<f32>]) {
    assert_eq!(exact.len(), whole.len());
    for (exact, whole) in exact.iter().zip(whole) {
        let cosine: f32 = exact.iter().zip(whole).map(|(a, b)| a * b).sum();
        assert!(0.98 < cosine && cosine < 1.0, "cosine {cosine}");
    }
}

#[test]
fn a_quantized_image_path_says_nearly_the_same() {
    // Before any tensor: it knows where ONNX Runtime lies.
    encoder::environment().unwrap();
    let head = Head { pooling: Pooling::MeanMax, hidden: 64, dimension: 32, dropout: 0.0 };
    let path = image::path(Backbone::MobileNetV2, Stride::Middle, &head);
    let graph = written(&path, Input::Pixels(&[3, 64, 64]), Precision::Half);
    // Waves, other ones in every picture: what neighbours share is what filters look at.
    let pictures = Array4::from_shape_fn((24, 3, 64, 64), |(row, channel, y, x)| {
        let turn = (row + 1) as f32 * 0.05;
        ((x as f32 * turn) + (y as f32 * (0.7 - turn)) + channel as f32).sin()
    });
    let tensor = || Tensor::from_array(pictures.clone()).unwrap().into();
    let whole = quantized(&graph, |watched| ranges::of_input(watched, tensor())).unwrap();
    assert!(whole.len() < graph.len());
    // Of the three colours and one of zeros.
    assert_integer(&whole, Some(&[32, 4, 3, 3]));
    assert_alike(&embedded(&graph, tensor()), &embedded(&whole, tensor()));
    assert_alike(&embedded(&graph, tensor()), &embedded(&undone(&whole), tensor()));
    assert_eq!(halved_if_quantized(&graph).unwrap(), None);
    let again = quantized(&whole, |_| panic!("it is not watched")).unwrap_err();
    assert!(again.to_string().contains("quantized already"), "{again}");
}

#[test]
fn a_quantized_text_path_says_nearly_the_same() {
    encoder::environment().unwrap();
    for form in [Form::FlatMeanMax, Form::Strided] {
        let path = text::path(form, 50, 32, 0.0);
        let graph = written(&path, Input::Tokens(16), Precision::Full);
        let tokens = Array2::from_shape_fn((40, 16), |(row, at)| match at < 3 + row % 13 {
            true => (1 + (row * 7 + at * 3) % 49) as i64,
            false => 0,
        });
        let tensor = || Tensor::from_array(tokens.clone()).unwrap().into();
        let whole = quantized(&graph, |watched| ranges::of_input(watched, tensor())).unwrap();
        assert_integer(&whole, None);
        assert_alike(&embedded(&graph, tensor()), &embedded(&whole, tensor()));
        assert_alike(&embedded(&graph, tensor()), &embedded(&undone(&whole), tensor()));
    }
}

/// As a GPU computes it: nothing is eight bits wide.
fn undone(file: &[u8]) -> Vec<u8> {
    let half = halved_if_quantized(file).unwrap().unwrap();
    assert_eq!(half, halved(file).unwrap());
    let graph = Model::decode(&*half).unwrap().graph.unwrap();
    let wide = |it: &&str| it.contains("QuantizeLinear") || it.contains("DequantizeLinear");
    assert_eq!(graph.node.iter().map(|it| it.op_type.as_str()).find(wide), None);
    half
}

/// Every convolution and every matrix takes whole numbers; the first one's weights have these dimensions.
fn assert_integer(file: &[u8], first: Option<&[i64]>) {
    let graph = Model::decode(file).unwrap().graph.unwrap();
    let made_by = |value: &str| graph.node.iter().find(|it| it.output[0] == value);
    let nodes = || graph.node.iter().filter(|it| ["Conv", "Gemm"].contains(&it.op_type.as_str()));
    assert!(nodes().any(|it| it.op_type == "Gemm"));
    for node in nodes() {
        for input in &node.input {
            let from = made_by(input).map(|it| it.op_type.as_str());
            assert_eq!(from, Some("DequantizeLinear"), "{input} of {}", node.name);
        }
    }
    let stored = &made_by(&nodes().next().unwrap().input[1]).unwrap().input[0];
    let stored = graph.initializer.iter().find(|it| it.name == *stored).unwrap();
    assert_eq!(stored.raw_data.len() as i64, stored.dims.iter().product::<i64>());
    if let Some(first) = first {
        assert_eq!(stored.dims, first);
    }
}

/// Without VNNI two neighbours' products are added in 16 bits, and what does not fit is cut off.
#[test]
fn neighbours_fit_into_sixteen_bits() {
    arbtest::arbtest(|u| {
        let mut weights = Vec::new();
        for _ in 0..2 * u.int_in_range(1..=8)? {
            weights.push(f32::from(u.arbitrary::<i16>()?) / 1000.0);
        }
        let scale = scale(&weights, &[1, weights.len() as i64, 1, 1]);
        let whole: Vec<i32> = weights.iter().map(|it| (it / scale).round() as i32).collect();
        for pair in whole.chunks_exact(2) {
            assert!(pair.iter().all(|it| (-127..=127).contains(it)), "{whole:?}");
            assert!(i16::try_from(255 * (pair[0] + pair[1])).is_ok(), "{whole:?}");
        }
        Ok(())
    });
}
