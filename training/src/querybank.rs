//! When training is over: the prototypes that even hubs out (see [`crate::net::Querybank`]).

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::config::Run;
use crate::data::Split;
use crate::encode;
use crate::net::{Layer, Querybank, Side};
use crate::prepare::Prepared;
use crate::torch::Parameters;

/// Rounds of k-means: prototypes hardly move behind the eighth.
const ROUNDS: usize = 8;
/// Keeps rows that do not differ from being divided by nothing.
const LEAST: f64 = 1e-30;
/// Stands for the log of nothing.
const NEVER: f64 = -1e4;

/// Computes both querybanks of a run from the training pictures, whole, and their sentences; the
/// weights already have room for them.
pub fn compute(
    run: &Run,
    prepared: &Prepared,
    text_path: &[Layer],
    weights: &mut Parameters,
) -> Result<()> {
    let train = prepared.split(Split::Train);
    let pictures = encode::pictures(run, &run.image_path(), weights, &train)?;
    let (sentences, _) = encode::sentences(text_path, weights, prepared, &train)?;
    let banks = [(Side::Picture, &pictures, &sentences), (Side::Sentence, &sentences, &pictures)];
    for (side, own, others) in banks {
        let served = run.served(Vec::new(), side);
        let Some(Layer::Querybank(bank)) = served.last() else { continue };
        fill(bank, own, others, run.seed, weights)?;
    }
    Ok(())
}

/// Computes one querybank, from its own path's rows (N, D) and the other path's (M, D).
pub fn fill(
    bank: &Querybank,
    own: &Tensor,
    others: &Tensor,
    seed: i64,
    weights: &mut Parameters,
) -> Result<()> {
    let Prototypes { means, shares, spreads } = prototypes(others, bank.prototypes, seed)?;
    // The rows of a prototype stand about it: as normal ones do, whose log mean exp is their mean and half
    // their variance.
    let shares = shares + spreads * (bank.sharpness.powi(2) / 2.0);
    let near = nearness(bank, own, &means, &shares);
    weights.assign(&format!("{}.weight", bank.name), &means)?;
    weights.assign(&format!("{}.bias", bank.name), &(shares - near.mean(Kind::Float)))
}

/// sharpness * h of each row of `own`.
fn nearness(bank: &Querybank, own: &Tensor, prototypes: &Tensor, shares: &Tensor) -> Tensor {
    let _guard = tch::no_grad_guard();
    (own.mm(&prototypes.transpose(0, 1)) * bank.sharpness + shares)
        .logsumexp([1i64].as_slice(), false)
}

/// A number of rows (M, D) in short.
struct Prototypes {
    /// Means of those that lie together, (count, D).
    means: Tensor,
    /// The logs of their shares, (count).
    shares: Tensor,
    /// The variance of a product with the rows of each, in the directions in which rows differ, (count).
    spreads: Tensor,
}

/// k-means.
fn prototypes(rows: &Tensor, count: i64, seed: i64) -> Result<Prototypes> {
    let _guard = tch::no_grad_guard();
    let (all, device) = (rows.size()[0], rows.device());
    ensure!(0 < all, "there is no training embedding to make a querybank of");
    tch::manual_seed(seed);
    // Fewer rows than prototypes: the same row twice, of which one gets no share.
    let chosen = Tensor::randperm(all, (Kind::Int64, Device::Cpu)).to_device(device);
    let chosen =
        chosen.index_select(0, &Tensor::arange(count, (Kind::Int64, device)).remainder(all));
    let mut means = rows.index_select(0, &chosen);
    let mut sizes = Tensor::zeros([count], (Kind::Float, device));
    let mut nearest = chosen;
    for round in 0..=ROUNDS {
        let lengths = means.square().sum_dim_intlist([1i64].as_slice(), false, None::<Kind>) / 2.0;
        nearest = (rows.mm(&means.transpose(0, 1)) - lengths).argmax(1, false);
        sizes = nearest.bincount(None::<&Tensor>, count).to_kind(Kind::Float);
        if round < ROUNDS {
            let sums = means.zeros_like().index_add(0, &nearest, rows);
            let filled = sizes.gt(0.0).unsqueeze(1);
            means = (sums / sizes.clamp_min(1.0).unsqueeze(1)).where_self(&filled, &means);
        }
    }
    let off = rows - means.index_select(0, &nearest);
    let lengths = off.square().sum_dim_intlist([1i64].as_slice(), false, None::<Kind>);
    let sums = sizes.zeros_like().index_add(0, &nearest, &lengths);
    let moment = off.transpose(0, 1).mm(&off) / all as f64;
    // As many as the rows differ in about alike.
    let directions = moment.trace().square() / moment.square().sum(Kind::Float).clamp_min(LEAST);
    let spreads = sums / sizes.clamp_min(1.0) / directions.clamp_min(1.0);
    let shares = (sizes / all as f64).log().clamp_min(NEVER);
    Ok(Prototypes { means, shares, spreads })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torch::{Mode, forward, unit};

    #[test]
    fn prototypes_are_means_of_what_lies_together() {
        let rows = Tensor::from_slice(&[1.0f32, 0.0, 0.9, 0.0, 0.0, 1.0, 0.0, 0.8]).view((4, 2));
        let Prototypes { means, shares, spreads } = prototypes(&rows, 2, 1).unwrap();
        let mut firsts = Vec::<f32>::try_from(means.select(1, 0)).unwrap();
        firsts.sort_by(f32::total_cmp);
        assert!((firsts[0], firsts[1]) == (0.0, 0.95), "{firsts:?}");
        assert!((shares.exp().sum(Kind::Float).double_value(&[]) - 1.0).abs() < 1e-6);
        // By 0.05 and by 0.1 in one direction each, which differ in how much: 1.47 in all.
        let mut spreads = Vec::<f32>::try_from(spreads).unwrap();
        spreads.sort_by(f32::total_cmp);
        let directions = 0.0125f32.powi(2) / (0.0025f32.powi(2) + 0.01f32.powi(2));
        let expected = [0.0025, 0.01].map(|it| it / directions);
        for (found, expected) in spreads.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{spreads:?} {expected:?}");
        }
        // More prototypes than rows: the rest has no share, and nothing stands apart.
        let Prototypes { shares, spreads, .. } = prototypes(&rows, 6, 1).unwrap();
        assert!(spreads.abs().max().double_value(&[]) < 1e-6);
        assert_eq!(shares.gt(NEVER).sum(Kind::Int64).int64_value(&[]), 4);
    }

    /// Of normal rows about a few points, sixty prototypes say about what all say.
    #[test]
    fn prototypes_stand_for_all_rows() {
        tch::manual_seed(5);
        let random = |rows: i64| Tensor::randn([rows, 24], (Kind::Float, Device::Cpu));
        let points = unit(&random(12)).repeat([300, 1]);
        let (others, own) = (unit(&(points + random(3600) * 0.1)), unit(&random(200)));
        let bank = Querybank {
            name: "bank".to_owned(),
            prototypes: 60,
            width: 24,
            sharpness: 15.0,
            side: Side::Picture,
        };
        let all = Tensor::full([3600], -3600f64.ln(), (Kind::Float, Device::Cpu));
        let exact = nearness(&bank, &own, &others, &all);
        let Prototypes { means, shares, spreads } = prototypes(&others, 60, 3).unwrap();
        let off = |shares: Tensor| {
            let near = nearness(&bank, &own, &means, &shares);
            (near - &exact).abs().mean(Kind::Float).double_value(&[])
        };
        let (with, without) = (off(&shares + spreads * 112.5), off(shares));
        assert!(with < 0.5 * without, "{with} {without}");
    }

    /// The four numbers do what the formula says, and every embedding has length one.
    #[test]
    fn scores_lose_what_hubs_have() {
        tch::manual_seed(3);
        let random = |rows: i64| unit(&Tensor::randn([rows, 16], (Kind::Float, Device::Cpu)));
        let rows = [random(5), random(7)];
        let served = [(Side::Picture, &rows[0]), (Side::Sentence, &rows[1])].map(|(side, x)| {
            let bank = Querybank {
                name: "bank".to_owned(),
                prototypes: 9,
                width: 16,
                sharpness: 10.0,
                side,
            };
            let path = [Layer::Querybank(bank.clone())];
            let mut weights = Parameters::fresh(&path, Device::Cpu);
            let (means, shares) =
                (random(9) * 0.4, Tensor::full([9], -2.2, (Kind::Float, Device::Cpu)));
            weights.assign("bank.weight", &means).unwrap();
            weights.assign("bank.bias", &shares).unwrap();
            let h = nearness(&bank, x, &means, &shares) / bank.sharpness;
            (forward(&path, &weights, x, Mode::Eval), h.clamp(-Querybank::MOST, Querybank::MOST))
        });
        let [(pictures, h), (sentences, other)] = served;
        assert_eq!(pictures.size(), [5, 20]);
        for it in [&pictures, &sentences] {
            let lengths = it.norm_scalaropt_dim(2.0, [1i64].as_slice(), false);
            assert!((lengths - 1.0).abs().max().double_value(&[]) < 1e-6);
        }
        let cosines = rows[0].mm(&rows[1].transpose(0, 1));
        let expected =
            (cosines - h.unsqueeze(1) - other.unsqueeze(0)) / (1.0 + 2.0 * Querybank::MOST);
        let got = pictures.mm(&sentences.transpose(0, 1));
        assert!((got - expected).abs().max().double_value(&[]) < 1e-6);
    }
}
