//! The acceptance checks of the paper sheet (section 9.3) on a data set that this test draws:
//! 64 pictures of one coloured shape each, one class a picture.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tch::{Device, Kind, Tensor};
use training::config::Run;
use training::data::Split;
use training::eval;
use training::fit;
use training::loss::Classes;
use training::net;
use training::prepare::{Prepared, prepare};
use training::torch::{Mode, Parameters, forward};

const COLOURS: [(&str, [u8; 3]); 8] = [
    ("red", [220, 30, 30]),
    ("green", [30, 180, 40]),
    ("blue", [30, 60, 220]),
    ("yellow", [230, 220, 40]),
    ("white", [245, 245, 245]),
    ("pink", [240, 130, 180]),
    ("brown", [120, 70, 30]),
    ("grey", [128, 128, 128]),
];
const PLACES: [&str; 8] =
    ["top", "left", "middle", "right", "bottom", "corner", "edge", "everywhere"];

/// Writes 64 pictures and their captions; every picture is in both splits, as overfitting wants it.
fn drawn(folder: &Path, stages: &str) -> PathBuf {
    let mut images = Vec::new();
    for (at, (colour, rgb)) in COLOURS.iter().enumerate() {
        for (place, word) in PLACES.iter().enumerate() {
            let mut picture = image::RgbImage::from_pixel(64, 64, image::Rgb([10, 10, 10]));
            let (left, top) = ((place as u32 % 3) * 20, (place as u32 / 3) * 20);
            for (x, y) in (0..24 - 2 * place as u32 % 7).flat_map(|x| (0..24).map(move |y| (x, y)))
            {
                picture.put_pixel((left + x).min(63), (top + y).min(63), image::Rgb(*rgb));
            }
            for split in ["train", "val"] {
                let name = format!("{split}-{at}-{place}.png");
                picture.save(folder.join(&name)).unwrap();
                let raw = format!("A {colour} shape at the {word}.");
                images.push(serde_json::json!({
                    "filename": name, "split": split, "imgid": images.len(),
                    "sentences": [{"raw": raw, "tokens": [], "imgid": 0, "sentid": 0}],
                }));
            }
        }
    }
    let captions = serde_json::json!({"images": images, "dataset": "drawn"});
    std::fs::write(folder.join("captions.json"), captions.to_string()).unwrap();
    let run = format!(
        r#"
        name = "drawn"
        seed = 3
        [data]
        captions = "captions.json"
        images = ["."]
        least_count = 1
        length = 16
        notice = "drawn by a test"
        [net]
        image = "mobilenet-v2"
        pooling = "mean-max"
        size = 64
        hidden = 64
        dimension = 64
        text = "flat"
        [loss]
        features = "unit"
        scale = 16.0
        ranking = "infonce"
        [augment]
        views = 1
        crop = [0.8, 1.0]
        flip = false
        shift = false
        sentences = 1
        {stages}"#
    );
    let file = folder.join("drawn.toml");
    std::fs::write(&file, run).unwrap();
    file
}

fn stage(epochs: usize, batch: usize) -> String {
    format!(
        "[[stage]]\ntrain_from = \"head\"\nepochs = {epochs}\nbatch = {batch}\noptimiser = \"adamw\"\nrate = 3e-3\nwarmup = 1.0\ndecay = 0.0\nclip = 2.0\naverage = 0.9\nweights = {{ ranking = 1.0, image = 1.0, text = 1.0 }}\n"
    )
}

fn train(verb: &str, run: &Path) -> Command {
    let folder = run.parent().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.arg(verb).arg(run).arg("--data").arg(folder).arg("--out").arg(folder.join("out"));
    command
}

fn losses(folder: &Path) -> Vec<serde_json::Value> {
    let log = std::fs::read_to_string(folder.join("out/drawn/log.jsonl")).unwrap();
    log.lines().map(|it| serde_json::from_str(it).unwrap()).collect()
}

#[test]
fn sixty_four_pairs_are_learned_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let file = drawn(folder.path(), &stage(120, 64));
    let run = Run::read(&file, &[]).unwrap();
    let out = folder.path().join("out/drawn");
    prepare(&run, folder.path(), &out).unwrap();

    // Before the first step both cross entropies are ln C, give or take the spread of random logits.
    let prepared = Prepared::read(&run, &out).unwrap();
    let weights = fit::nets(&run, &prepared, folder.path(), Device::Cpu).unwrap();
    let unit = |rows| training::torch::unit(&Tensor::randn([rows, 64], (Kind::Float, Device::Cpu)));
    let classes = Tensor::arange(64, (Kind::Int64, Device::Cpu));
    let share = weights.get(fit::SHARE);
    let start = Classes { share, bias: None, scale: 4.0, smoothing: 0.0 }.loss(&unit(64), &classes);
    let chance = 64f64.ln();
    assert!((start.double_value(&[]) - chance).abs() < 0.35 * chance, "{start:?} against {chance}");

    assert!(train("fit", &file).status().unwrap().success());
    let log = losses(folder.path());
    assert!(log.last().unwrap()["steps"].as_i64().unwrap() < 500);
    let best = log.iter().map(|it| it["recall"]["text_to_image"]["at_1"].as_f64().unwrap());
    assert_eq!(best.fold(0.0, f64::max), 100.0);

    // The best checkpoint says the same from the file.
    let text_path = run.text_path(prepared.words.vocabulary());
    let image_path = run.image_path();
    let mut read = Parameters::fresh(&image_path, Device::Cpu);
    read.extend(Parameters::fresh(&text_path, Device::Cpu));
    let names: Vec<String> = net::parameters(&[image_path.clone(), text_path.clone()].concat())
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert!(read.load(&out.join(fit::BEST), &names).unwrap().is_empty());
    let ids: Vec<i64> = prepared
        .split(Split::Val)
        .iter()
        .flat_map(|it| prepared.words.ids(&it.sentences[0]).unwrap())
        .collect();
    let tokens = Tensor::from_slice(&ids).view((64, 16));
    let sentences = tch::no_grad(|| forward(&text_path, &read, &tokens, Mode::Eval));
    let preprocess = training::export::preprocess(&run);
    let mut pixels = ndarray::Array4::zeros((64, 3, 64, 64));
    for (picture, plane) in prepared.split(Split::Val).iter().zip(pixels.outer_iter_mut()) {
        let decoded = dualpath::image::decode(&picture.read().unwrap()).unwrap();
        preprocess.write(&decoded, plane).unwrap();
    }
    let input = Tensor::from_slice(pixels.as_slice().unwrap()).view((64, 3, 64, 64));
    let pictures = tch::no_grad(|| forward(&image_path, &read, &input, Mode::Eval));
    let classes: Vec<i64> = (0..64).collect();
    let report = eval::ranks(&pictures, &sentences, &classes, &classes).report();
    assert!(98.0 < report.text_to_image.at_1, "{report}");
}

#[test]
fn a_killed_run_resumes_to_the_same_weights() {
    let whole = tempfile::tempdir().unwrap();
    let broken = tempfile::tempdir().unwrap();
    // Two stages, the second with more of the net, so that both kinds of state are resumed.
    let second = stage(3, 16).replace("\"head\"", "\"block16\"") + "factors = { backbone = 0.5 }\n";
    let stages = format!("{}\n{second}", stage(3, 16));
    for folder in [&whole, &broken] {
        let file = drawn(folder.path(), &stages);
        assert!(train("prepare", &file).status().unwrap().success());
    }
    let file = whole.path().join("drawn.toml");
    assert!(train("fit", &file).status().unwrap().success());

    let file = broken.path().join("drawn.toml");
    let mut fit = train("fit", &file).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(fit.stdout.take().unwrap()));
    // Killed somewhere behind the second stage's first epoch.
    while !lines
        .next()
        .expect("the run ended before it was killed")
        .unwrap()
        .starts_with("stage 2 epoch  1")
    {}
    fit.kill().unwrap();
    fit.wait().unwrap();
    let refused = train("fit", &file).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--resume"), "{refused:?}");
    assert!(train("fit", &file).arg("--resume").status().unwrap().success());

    let last = |folder: &Path| {
        let mut all = Tensor::read_safetensors(folder.join("out/drawn").join(fit::LAST)).unwrap();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let (a, b) = (last(whole.path()), last(broken.path()));
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(&b) {
        assert_eq!(name, other);
        assert!(a.equal(b), "{name} differs after resuming");
    }
    // And the same seed gives the same first losses.
    assert_eq!(losses(whole.path())[0]["image"], losses(broken.path())[0]["image"]);
}

#[test]
fn a_run_file_with_an_unknown_key_lists_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let file = drawn(folder.path(), &stage(1, 16).replace("decay", "decoy"));
    let message = format!("{:#}", Run::read(&file, &[]).unwrap_err());
    assert!(message.contains("decoy") && message.contains("warmup"), "{message}");
}

#[test]
fn what_prepare_refuses_and_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = drawn(folder.path(), &stage(1, 16));
    std::fs::write(folder.path().join("train-0-0.png"), b"no picture").unwrap();
    let output = train("prepare", &file).output().unwrap();
    let (said, told) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(
        told.contains("left out: train-0-0.png") && said.contains("1 left out"),
        "{said}{told}"
    );

    std::fs::remove_file(folder.path().join("train-0-1.png")).unwrap();
    let output = train("prepare", &file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("the first is train-0-1.png"), "{told}");
}
