#![allow(clippy::unwrap_used)]

use dualpath::encoder;
use ndarray::Array2;
use ort::session::Session;
use tch::{Device, Kind, Tensor};

use anyhow::Result;

use super::graph::Members;
use super::turn;
use crate::net::Layer;
use crate::net::text::{self, Form};
use crate::onnx::{self, Input, Precision};
use crate::torch::{Mode, Parameters, forward, numbers, unit};

fn joined(members: &[&[u8]], tail: &[u8]) -> Result<Vec<u8>> {
    Members::read(members)?.joined(tail)
}

const WIDTH: i64 = 16;

fn member(seed: i64) -> Vec<u8> {
    tch::manual_seed(seed);
    let path = text::path(Form::FlatMeanMax, 50, WIDTH, 0.0);
    let weights = Parameters::fresh(&path, Device::Cpu);
    onnx::write(&path, Input::Tokens(12), WIDTH, Precision::Half, |it| numbers(weights.get(it)))
}

fn tail(width: i64) -> (Vec<Layer>, Parameters, Vec<u8>) {
    let turn =
        Layer::Linear { name: "turn".to_owned(), input: 2 * WIDTH, output: width, bias: false };
    let path = vec![turn, Layer::Unit];
    let weights = Parameters::fresh(&path, Device::Cpu);
    let input = Input::Row(2 * WIDTH);
    let graph = onnx::write(&path, input, width, Precision::Full, |it| numbers(weights.get(it)));
    (path, weights, graph)
}

/// What a graph makes of sentences of one to twelve words.
fn embedded(graph: &[u8]) -> Tensor {
    let tokens = Array2::from_shape_fn((30, 12), |(row, at)| match at <= row % 12 {
        true => (1 + (row * 7 + at * 3) % 49) as i64,
        false => 0,
    });
    let builder = Session::builder(encoder::environment().unwrap()).unwrap();
    let mut session = { builder }.commit_from_memory(graph).unwrap();
    let tokens = ort::value::Tensor::from_array(tokens).unwrap();
    let outputs = session.run(ort::inputs![tokens]).unwrap();
    let (shape, numbers) = outputs[0].try_extract_tensor::<f32>().unwrap();
    Tensor::from_slice(numbers).view((shape[0], shape[1]))
}

#[test]
fn members_stand_side_by_side_before_the_tail() {
    encoder::environment().unwrap();
    let (one, two) = (member(1), member(2));
    let (path, weights, tail) = tail(20);
    let beside = Tensor::cat(&[embedded(&one), embedded(&two)], 1);
    let expected = forward(&path, &weights, &beside, Mode::Eval);
    let got = embedded(&joined(&[&one, &two], &tail).unwrap());
    assert!((got - expected).abs().max().double_value(&[]) < 1e-5);
}

#[test]
fn what_members_share_is_stored_and_computed_once() {
    encoder::environment().unwrap();
    let one = member(1);
    let tail = tail(20).2;
    let twice = joined(&[&one, &one], &tail).unwrap();
    assert!(twice.len() < one.len() + tail.len() + 100, "{} from {}", twice.len(), one.len());
    let other = joined(&[&one, &member(2)], &tail).unwrap();
    assert!(twice.len() + one.len() / 2 < other.len(), "{} and {}", twice.len(), other.len());
}

#[test]
fn members_that_do_not_fit_are_refused() {
    let (one, tail) = (member(1), tail(20).2);
    let path = text::path(Form::Strided, 50, WIDTH, 0.0);
    let weights = Parameters::fresh(&path, Device::Cpu);
    let fixed = onnx::write(&path, Input::Tokens(12), WIDTH, Precision::Half, |it| {
        numbers(weights.get(it))
    });
    let refused = |members: &[&[u8]]| joined(members, &tail).unwrap_err().to_string();
    assert!(refused(&[&one, &fixed]).contains("different inputs"));
    assert!(refused(&[&one, &tail]).contains("different inputs"));
    assert!(refused(&[&one, &[]]).contains("another operator set"));
}

/// Where rows need no more directions than there are, nothing is lost.
#[test]
fn a_turn_keeps_products() {
    tch::manual_seed(4);
    let options = (Kind::Float, Device::Cpu);
    let [basis, some, others] = [[6, 20], [50, 6], [40, 6]].map(|it| Tensor::randn(it, options));
    let [some, others] = [some, others].map(|it| unit(&it.mm(&basis)));
    let turn = turn(&[&some, &others], 6).transpose(0, 1);
    let products = |a: &Tensor, b: &Tensor| a.mm(&b.transpose(0, 1));
    let lost = products(&some, &others) - products(&some.mm(&turn), &others.mm(&turn));
    assert!(lost.abs().max().double_value(&[]) < 1e-5);
}
