//! The acceptance checks of the paper sheet (section 9.3) on a data set that this test draws:
//! 64 pictures of one coloured shape each, one class a picture.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
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

    for file in [fit::CURVES, "retrieval.html"] {
        assert!(out.join(file).exists(), "{file}");
    }

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
    // Cached features, then more of the net, then fresh crops, another optimiser and added-up
    // gradients: every kind of state is resumed.
    let second = stage(3, 16).replace("\"head\"", "\"block16\"") + "factors = { backbone = 0.5 }\n";
    let third = stage(3, 16).replace("\"head\"", "\"block15\"").replace("adamw", "sgd")
        + "cache = false\nsize = 48\naccumulate = 2\n";
    let stages = format!("{}\n{second}\n{}", stage(2, 16), third.replace("3e-3", "1e-2"));
    for folder in [&whole, &broken] {
        let file = drawn(folder.path(), &stages);
        assert!(train("prepare", &file).status().unwrap().success());
    }
    let file = whole.path().join("drawn.toml");
    assert!(train("fit", &file).status().unwrap().success());

    let file = broken.path().join("drawn.toml");
    let mut fit = train("fit", &file).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(fit.stdout.take().unwrap()));
    // Killed somewhere behind the third stage's first epoch.
    while !lines
        .next()
        .expect("the run ended before it was killed")
        .unwrap()
        .starts_with("stage 3 epoch  1")
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

fn told(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run with one epoch behind it.
fn begun(folder: &Path) -> PathBuf {
    let file = drawn(folder, &stage(1, 32));
    assert!(train("prepare", &file).status().unwrap().success());
    assert!(train("fit", &file).status().unwrap().success());
    file
}

#[test]
fn the_papers_losses_and_schedule_train() {
    let folder = tempfile::tempdir().unwrap();
    let file = drawn(folder.path(), &stage(48, 16));
    let changes = [
        "loss.features=relu",
        "loss.scale=0.0",
        "loss.bias=true",
        "loss.dropout=0.5",
        "loss.ranking=hinge",
        "loss.margin=0.5",
        "loss.mined=24",
        "net.text=strided",
        "net.pooling=mean",
        "stage.0.optimiser=sgd",
        "stage.0.rate=0.1",
        "stage.0.decay_all=true",
        "stage.0.schedule={drops=[36]}",
        "stage.0.weights={ranking=1.0,image=1.0,text=1.0}",
        "stage.0.factors={weight=0.1,gain=0.2,bias=0.1,lookup=1e-3,share=1.0,share_bias=0.02}",
    ];
    for verb in ["prepare", "fit"] {
        let mut command = train(verb, &file);
        command.args(changes.iter().flat_map(|it| ["--set", it]));
        assert!(command.status().unwrap().success());
    }
    let log = losses(folder.path());
    let of = |at: usize, key: &str| log[at][key].as_f64().unwrap();
    // At the start close to ln 64; at the end far from chance, which is 10 of 64.
    assert!((of(0, "image") - 64f64.ln()).abs() < 0.5, "{log:?}");
    assert!(of(47, "image") < of(0, "image") && of(47, "ranking") < 0.6 * of(0, "ranking"));
    assert!(40.0 < log[47]["recall"]["text_to_image"]["at_10"].as_f64().unwrap(), "{log:?}");
    assert!(of(35, "rate") == 0.1 && (of(36, "rate") - 0.01).abs() < 1e-12);
}

#[test]
fn two_runs_become_one_model_in_eight_bits() {
    let folder = tempfile::tempdir().unwrap();
    let file = begun(folder.path());
    let models = ["one", "two", "both", "whole"].map(|it| folder.path().join(it));
    let [one, two, both, whole] = models.each_ref();
    // The same seed draws the same backbone.
    let second = ["--set", "name=second", "--set", "stage.0.rate=1e-3"];
    let done = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    for verb in ["prepare", "fit"] {
        done(train(verb, &file).args(second));
    }
    done(train("export", &file).arg("--to").arg(one));
    done(train("export", &file).args(second).arg("--to").arg(two));

    let join = || {
        let mut join = train("join", &file);
        join.args(["--set", "net.querybank=8", "--model"]).arg(one);
        join
    };
    let said = done(join().arg("--model").arg(two).arg("--to").arg(both));
    assert!(said.contains("together: text to image"), "{said}");
    let size = |model: &Path| std::fs::metadata(model.join("image.onnx")).unwrap().len();
    // The frozen backbone is one.
    assert!(size(both) < size(one) + size(two) / 2, "{} of {}", size(both), size(one));
    let quantize = || {
        let mut quantize = train("quantize", &file);
        quantize.arg("--model").arg(both).arg("--to").arg(whole);
        quantize
    };
    let said = done(&mut quantize());
    assert!(said.contains("before:") && size(whole) < size(both) / 4 * 3, "{said}");

    let alone = join().arg("--to").arg(both).output().unwrap();
    assert!(told(&alone).contains("give --model several times"), "{}", told(&alone));
    let again = join().arg("--model").arg(whole).arg("--to").arg(both).output().unwrap();
    assert!(told(&again).contains("quantized already"), "{}", told(&again));
    let wide = ["--set", "net.dimension=256"];
    let wide = join().arg("--model").arg(two).args(wide).arg("--to").arg(both).output().unwrap();
    assert!(told(&wide).contains("too few"), "{}", told(&wide));
}

#[test]
fn a_model_learns_from_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = begun(folder.path());
    // Two of other sizes.
    for (name, more) in [("teacher", "seed=1"), ("other", "net.size=40")] {
        let mut export = train("export", &file);
        export.args(["--set", more]).arg("--to").arg(folder.path().join(name));
        assert!(export.status().unwrap().success());
    }

    let pupil = |name: &str, more: &[&str]| {
        let taught = [
            &format!("name={name}"),
            "teacher.models=['teacher', 'other']",
            "teacher.scale=14",
            "stage.0.weights.teacher=2.0",
        ];
        let changes: Vec<&str> = taught.iter().chain(more).flat_map(|it| ["--set", *it]).collect();
        assert!(train("prepare", &file).args(&changes).status().unwrap().success());
        train("fit", &file).args(&changes).output().unwrap()
    };
    let divergence = |name: &str| {
        let log = folder.path().join("out").join(name).join("log.jsonl");
        let log = std::fs::read_to_string(log).unwrap();
        let of = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["teacher"].as_f64().unwrap()
        };
        log.lines().map(of).collect::<Vec<f64>>()
    };
    let fresh = pupil("fresh", &["seed=9", "stage.0.epochs=4"]);
    assert!(fresh.status.success(), "{}", told(&fresh));
    let said = String::from_utf8_lossy(&fresh.stdout).into_owned();
    assert!(said.contains("  teacher "), "{said}");
    let fresh = divergence("fresh");
    assert!(fresh[3] < fresh[0], "{fresh:?}");
    // What the teacher makes of the data is computed once: a second run reads it, and learns the same.
    let cached = || {
        let all = std::fs::read_dir(folder.path().join("out/cache")).unwrap().map(Result::unwrap);
        let of_teachers = all.filter(|it| it.file_name().to_string_lossy().starts_with("teacher-"));
        let dated =
            of_teachers.map(|it| (it.file_name(), it.metadata().unwrap().modified().unwrap()));
        dated.collect::<BTreeMap<_, _>>()
    };
    let before = cached();
    assert_eq!(before.len(), 2);
    assert!(pupil("twin", &["seed=9", "stage.0.epochs=4"]).status.success());
    assert_eq!((cached(), divergence("twin")), (before, fresh));
    // A run that hardly moves ends where it starts.
    let start = "net.start=out/drawn/best.safetensors";
    let again = pupil("again", &[start, "stage.0.rate=1e-9", "stage.0.epochs=1"]);
    assert!(again.status.success(), "{}", told(&again));
    let share = |run: &str| {
        let file = folder.path().join("out").join(run).join(fit::BEST);
        let all = Tensor::read_safetensors(file).unwrap();
        all.into_iter().find(|it| it.0 == fit::SHARE).unwrap().1
    };
    let moved = (share("again") - share("drawn")).abs().max().double_value(&[]);
    assert!(moved < 1e-6, "{moved}");

    let refused = |name: &str, change: &str| {
        let output = pupil(name, &[change]);
        assert!(!output.status.success());
        told(&output)
    };
    let nowhere = refused("nowhere", "teacher.models=['no-such-folder']");
    assert!(
        nowhere.contains("the run's teacher") && nowhere.contains("no-such-folder"),
        "{nowhere}"
    );
    let partial = folder.path().join("partial.safetensors");
    Tensor::write_safetensors(
        &[("share", Tensor::zeros([1], (Kind::Float, Device::Cpu)))],
        partial,
    )
    .unwrap();
    let wrong = refused("wrong", "net.start=partial.safetensors");
    assert!(wrong.contains("share") && wrong.contains("partial.safetensors"), "{wrong}");
    let endless = Tensor::full([1], f64::INFINITY, (Kind::Float, Device::Cpu));
    Tensor::write_safetensors(&[("share", endless)], folder.path().join("endless.safetensors"))
        .unwrap();
    let wrong = refused("endless", "net.start=endless.safetensors");
    assert!(wrong.contains("share") && wrong.contains("holds infinities or NaN"), "{wrong}");
}

#[test]
fn a_checkpoint_of_another_net_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = begun(folder.path());
    let output =
        train("fit", &file).args(["--resume", "--set", "net.dimension=32"]).output().unwrap();
    let told = told(&output);
    assert!(!output.status.success());
    assert!(told.contains("is no checkpoint of this run"), "{told}");
    assert!(told.contains("in the file, [32"), "{told}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = begun(folder.path());
    let last = folder.path().join("out/drawn").join(fit::LAST);
    let before = std::fs::read(&last).unwrap();
    let mut fit = train("fit", &file);
    fit.args(["--resume", "--set", "stage.0.epochs=3", "--set", "stage.0.rate=1e38"]);
    let output = fit.output().unwrap();
    let told = told(&output);
    assert!(!output.status.success());
    assert!(told.contains("loss is NaN") || told.contains("the gradient is"), "{told}");
    assert!(told.contains("step ") && told.contains("lower the rate"), "{told}");
    assert!(before == std::fs::read(&last).unwrap(), "the last good checkpoint changed");
}

#[test]
fn a_full_disk_keeps_the_old_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let file = begun(folder.path());
    let last = folder.path().join("out/drawn").join(fit::LAST);
    let before = std::fs::read(&last).unwrap();
    // No file may grow beyond a megabyte, as if that were all the room there is.
    let fit = train("fit", &file);
    let mut limited = Command::new("bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]).arg(fit.get_program());
    limited.args(fit.get_args()).args(["--resume", "--set", "stage.0.epochs=3"]);
    let output = limited.output().unwrap();
    let told = told(&output);
    assert!(!output.status.success());
    assert!(told.contains("is the disk full?"), "{told}");
    assert!(before == std::fs::read(&last).unwrap(), "the old checkpoint changed");
    let left = std::fs::read_dir(last.parent().unwrap()).unwrap();
    let partial =
        left.filter(|it| it.as_ref().unwrap().path().extension().is_some_and(|it| it == "partial"));
    assert_eq!(partial.count(), 0);
    let mut fit = train("fit", &file);
    assert!(fit.args(["--resume", "--set", "stage.0.epochs=2"]).status().unwrap().success());
    assert_eq!(losses(folder.path()).len(), 2);
}

#[test]
fn peoples_own_table_trains() {
    let folder = tempfile::tempdir().unwrap();
    let file = drawn(folder.path(), &stage(1, 16));
    let mut csv = "file,caption\n".to_owned();
    for (at, (colour, _)) in COLOURS.iter().enumerate() {
        for (place, word) in PLACES.iter().enumerate() {
            csv += &format!("train-{at}-{place}.png,\"A {colour} shape, at the {word}.\"\n");
            csv += &format!("train-{at}-{place}.png,Something {colour}.\n");
        }
    }
    std::fs::write(folder.path().join("captions.csv"), csv).unwrap();
    let own = ["data.form=csv", "data.captions=captions.csv", "data.held_out=[10, 4]"];
    let said = |verb: &str, more: &[&str]| {
        let mut command = train(verb, &file);
        command.args(own.iter().flat_map(|it| ["--set", it]));
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let prepared = said("prepare", &[]);
    assert!(prepared.starts_with("50 training, 10 validation and 4 test pictures"), "{prepared}");
    said("fit", &[]);
    let table = said("eval", &["--split", "test"]);
    assert!(table.contains("text to image") && table.contains("95 % intervals"), "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&said("eval", &["--json", "--folds", "2"])).unwrap();
    assert_eq!(json["folds"], 2);
    let at_10 = json["recall"]["text_to_image"]["at_10"].as_f64().unwrap();
    // Five pictures a fold: the first ten hold them all.
    assert_eq!(at_10, 100.0);

    let output = train("prepare", &file).args(["--set", "data.least_count=999"]).output().unwrap();
    assert!(told(&output).contains("the vocabulary is empty"), "{}", told(&output));
}
