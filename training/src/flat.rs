//! Tensors that lie one after another in a single one, so that one operation reaches them all: an optimiser
//! that moves them one by one starts thousands of kernels a step, and a GPU waits for each.

use tch::Tensor;

use crate::torch::channels_last;

/// Numbers between the places where tensors may begin, as kernels want them aligned.
const ALIGNED: i64 = 64;

/// The one that the others are parts of.
pub struct Flat {
    whole: Tensor,
    /// Where each begins, and the end.
    places: Vec<i64>,
}

impl Flat {
    /// Moves the tensors' numbers, in this order, and leaves the tensors as views of them; gaps are zeros.
    pub fn of(tensors: Vec<Tensor>) -> Flat {
        let _guard = tch::no_grad_guard();
        let mut places = vec![0];
        for it in &tensors {
            let room = (it.numel() as i64 + ALIGNED - 1) / ALIGNED * ALIGNED;
            places.push(places[places.len() - 1] + room);
        }
        let options = tensors.first().map_or(tch::kind::FLOAT_CPU, |it| (it.kind(), it.device()));
        let whole = Tensor::zeros([places[places.len() - 1]], options);
        for (mut tensor, place) in tensors.into_iter().zip(&places) {
            let row = whole.narrow(0, *place, tensor.numel() as i64);
            // As the convolutions want it.
            let laid_out = channels_last(&tensor);
            let mut view = row.as_strided(laid_out.size(), laid_out.stride(), *place);
            view.copy_(&tensor);
            tensor.set_data(&view);
        }
        Flat { whole, places }
    }

    /// All numbers, gaps among them.
    pub fn whole(&self) -> &Tensor {
        &self.whole
    }

    /// Those of the tensors from the one up to the other, in parts of at most so many numbers.
    pub fn parts(&self, from: usize, to: usize, most: i64) -> Vec<Tensor> {
        let (begin, end) = (self.places[from], self.places[to]);
        let starts = (begin..end).step_by(most as usize);
        starts.map(|at| self.whole.narrow(0, at, most.min(end - at))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn tensors_are_what_they_were_and_move_together() {
        let tensor = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
        let tensors = [tensor(&[3, 2]), channels_last(&tensor(&[4, 3, 2, 2])), tensor(&[])];
        let before: Vec<Tensor> = tensors.iter().map(Tensor::copy).collect();
        let flat = Flat::of(tensors.iter().map(Tensor::shallow_clone).collect());
        assert_eq!(flat.whole().size(), [3 * ALIGNED]);
        for (tensor, before) in tensors.iter().zip(&before) {
            assert_eq!(tensor, before);
        }
        assert_eq!(tensors[1].stride(), before[1].stride());
        let _ = flat.whole().shallow_clone().g_mul_scalar_(2.0);
        for (tensor, before) in tensors.iter().zip(&before) {
            assert_eq!(*tensor, before * 2.0);
        }
        let sizes =
            |from, to| flat.parts(from, to, 100).iter().map(Tensor::numel).collect::<Vec<_>>();
        assert_eq!((sizes(0, 3), sizes(1, 2)), (vec![100, 92], vec![64]));
    }
}
