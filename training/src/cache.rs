//! What the frozen layers make of every view of every picture, computed once, kept as float16.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use half::f16;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::ahead::Ahead;
use crate::augment;
use crate::config::Run;
use crate::data::Picture;
use crate::net::{self, Layer};
use crate::progress;
use crate::torch::{self, Mode, Parameters};

/// Pictures decoded and run through the frozen layers at a time.
const BATCH: usize = 32;

/// The input of the first layer that moves, for every (picture, view).
pub struct Cache {
    file: File,
    /// Of one row, without the batch.
    pub shape: Vec<i64>,
    /// Rows per picture; the first is the whole picture.
    pub views: usize,
}

impl Cache {
    /// Opens the caches of all cuts, computing what is missing; a killed computation goes on
    /// where it stopped. `cuts` are layer positions in rising order, one pass serves them all.
    pub fn open_all(
        run: &Run,
        pictures: &[&Picture],
        views: usize,
        cuts: &[usize],
        parameters: &Parameters,
        folder: &Path,
        part: &str,
    ) -> Result<Vec<Cache>> {
        let path = run.image_path();
        let device = parameters.get("fc1.weight").device();
        let size = i64::from(run.net.size);
        let probe = Tensor::zeros([1, 3, size, size], (Kind::Float, device));
        let shapes: Vec<Vec<i64>> = tch::no_grad(|| {
            let run_to =
                |cut: &usize| torch::forward(&path[..*cut], parameters, &probe, Mode::Eval);
            cuts.iter().map(|cut| run_to(cut).size()[1..].to_vec()).collect()
        });
        std::fs::create_dir_all(folder)?;
        let deepest = cuts.last().copied().unwrap_or(0);
        let digest = digest(run, pictures, &path[..deepest], parameters);
        let named = |cut: &usize| -> PathBuf {
            folder.join(format!("{part}-{}-{views}-{digest}.f16", name_at(&path, *cut)))
        };
        let files: Vec<PathBuf> = cuts.iter().map(named).collect();
        compute(run, pictures, views, cuts, parameters, &shapes, &files, part)?;
        files
            .iter()
            .zip(shapes)
            .map(|(file, shape)| Ok(Cache { file: File::open(file)?, shape, views }))
            .collect()
    }

    /// Rows of (picture, view) as float16 on the CPU, (batch, ...).
    pub fn rows(&self, rows: &[(usize, usize)]) -> Result<Tensor> {
        let row = self.shape.iter().product::<i64>() as usize;
        let mut bytes = vec![0u8; 2 * row * rows.len()];
        for ((picture, view), chunk) in rows.iter().zip(bytes.chunks_exact_mut(2 * row)) {
            let at = (picture * self.views + view) * 2 * row;
            self.file.read_exact_at(chunk, at as u64).context("reading cached features")?;
        }
        let halves: Vec<f16> =
            bytes.as_chunks::<2>().0.iter().map(|it| f16::from_le_bytes(*it)).collect();
        let shape: Vec<i64> =
            std::iter::once(rows.len() as i64).chain(self.shape.clone()).collect();
        Ok(Tensor::from_slice(&halves).view(shape.as_slice()))
    }
}

/// Names everything that decides the rows, so that a changed run file never meets old ones.
fn digest(run: &Run, pictures: &[&Picture], frozen: &[Layer], parameters: &Parameters) -> String {
    let pictures: Vec<_> = pictures.iter().map(|it| (&it.name, it.bytes)).collect();
    let augment = &run.augment;
    let decided = (run.net.size, augment.crop, augment.flip, pictures);
    let mut bytes = serde_json::json!(decided).to_string().into_bytes();
    bytes.extend(format!("{frozen:?}").into_bytes());
    for it in net::parameters(frozen) {
        let numbers = torch::numbers(parameters.get(&it.name));
        bytes.extend(numbers.iter().flat_map(|it| it.to_le_bytes()));
    }
    dualpath::model::sha256(&bytes)[..12].to_owned()
}

fn name_at(path: &[Layer], cut: usize) -> String {
    match &path[cut] {
        Layer::Block { name, .. } => name.clone(),
        _ => cut.to_string(),
    }
}

#[allow(clippy::too_many_arguments)]
fn compute(
    run: &Run,
    pictures: &[&Picture],
    views: usize,
    cuts: &[usize],
    parameters: &Parameters,
    shapes: &[Vec<i64>],
    files: &[PathBuf],
    part: &str,
) -> Result<()> {
    let path = run.image_path();
    let device = parameters.get("fc1.weight").device();
    let row_bytes = |shape: &Vec<i64>| 2 * shape.iter().product::<i64>() as u64;
    let all = pictures.len() * views;
    let mut done = all as u64;
    let mut open = Vec::new();
    for (file, shape) in files.iter().zip(shapes) {
        let handle = File::options().create(true).append(true).open(file)?;
        // Another run of the same frozen layers may be at it.
        handle.lock().with_context(|| format!("locking {}", file.display()))?;
        done = done.min(handle.metadata()?.len() / row_bytes(shape));
        open.push(handle);
    }
    if done == all as u64 {
        return Ok(());
    }
    for (handle, shape) in open.iter().zip(shapes) {
        handle.set_len(done * row_bytes(shape))?;
    }
    let bar = progress::bar(
        all,
        if part == "train" { "frozen layers, train" } else { "frozen layers, val" },
    );
    bar.set_position(done);
    bar.reset_eta();
    let rows: Vec<usize> = (done as usize..all).collect();
    let batches: Vec<&[usize]> = rows.chunks(BATCH).collect();
    let make = |at: usize| -> Result<Tensor> {
        let view = |row: &usize| view(run, pictures[row / views], row / views, row % views);
        augment::bytes(run.net.size, batches[at].iter().map(view))
    };
    std::thread::scope(|scope| -> Result<()> {
        let mut decoded = Ahead::start(scope, batches.len(), &make);
        for batch in &batches {
            let mut x = augment::pixels(run, &decoded.next()?, device);
            let mut from = 0;
            for (cut, handle) in cuts.iter().zip(&mut open) {
                x = tch::no_grad(|| torch::forward(&path[from..*cut], parameters, &x, Mode::Eval));
                from = *cut;
                let halves: Vec<u8> = torch::numbers(&x)
                    .iter()
                    .flat_map(|it| f16::from_f32(*it).to_le_bytes())
                    .collect();
                handle.write_all(&halves).context("writing cached features (is the disk full?)")?;
            }
            bar.inc(batch.len() as u64);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// View 0 is the whole picture as the extension will see it; the others are random crops.
fn view(run: &Run, picture: &Picture, index: usize, view: usize) -> Result<Vec<u8>> {
    // The same crops for every seed of a run: which of them a step draws is the seed's.
    let mut random = ChaCha8Rng::seed_from_u64(((index as u64) << 28 | (view as u64) << 8) + 1);
    match view {
        0 => augment::whole(run, picture),
        _ => augment::cropped(&run.augment, picture, run.net.size, &mut random),
    }
}

/// The positions of the cached stages' first moving blocks, rising, each once.
pub fn cuts(run: &Run) -> Result<Vec<usize>> {
    let path = run.image_path();
    let mut cuts = Vec::new();
    for stage in &run.stages {
        match net::position(&path, &stage.train_from) {
            // Pixels themselves are not worth keeping: they would all be the same few crops.
            Some(0) => {}
            Some(at) if stage.cache => cuts.push(at),
            Some(_) => {}
            None => bail!("train_from = '{}' is no block of the image path", stage.train_from),
        }
    }
    cuts.sort();
    cuts.dedup();
    Ok(cuts)
}
