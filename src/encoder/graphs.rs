//! A model's two graphs: pixels in or tokens in, embeddings out.

use ndarray::{Array2, Array4, ArrayView4, Axis, Slice};
use ort::value::{Outlet, TensorElementType, TensorRef};

use super::cores;
use super::device;
use super::elsewhere::{Binder, Block};
use super::outlets::{
    ANY, MASK, OUTPUT, TOKENS, described, dimension, element, fits, is_single, other, shape,
    strict, takes,
};
use super::pixels::Pixel;
use super::precision::Precision;
use super::session::{Answer, Opened, Place, answers, is_out_of_memory, miscounted, open};
use crate::embedding::Embedding;
use crate::error::{Error, Result};
use crate::image::Pixels;
use crate::model::{self, IMAGE_GRAPH, Model, TEXT_GRAPH};

/// An opened image path.
pub struct ImageGraph {
    graph: Opened,
    pixels: Pixels,
    binder: Option<Binder>,
}

/// An opened text path.
pub struct TextGraph {
    graph: Opened,
    /// Whether it is int32 that the tokens are asked for in, and the mask, if it is asked for.
    narrow: bool,
    mask: Option<Wanted>,
    any_length: bool,
}

struct Wanted {
    name: String,
    narrow: bool,
}

impl ImageGraph {
    /// Opens a model's image path, to be run by so many threads.
    ///
    /// # Errors
    /// No ONNX Runtime; a graph it refuses; names, types or shapes other than expected.
    pub fn open(name: &str, model: &Model, threads: usize) -> Result<ImageGraph> {
        let (file, image) = (IMAGE_GRAPH, &model.manifest.image);
        let size = i64::from(image.size);
        let (session, place) = open(name, (&model.image_graph, file), Some(image), threads)?;
        let pixels = match place.precision {
            Precision::Half => Pixels::Bytes,
            _ => image.pixels,
        };
        let (pixel, row) = match pixels {
            Pixels::Floats => (TensorElementType::Float32, [3, size, size]),
            Pixels::Bytes => (TensorElementType::Uint8, [size, size, 3]),
        };
        let inputs = session.inputs();
        let float = TensorElementType::Float32;
        let input = match &model.image_graph {
            model::Graph::Bytes(_) => {
                strict(name, file, inputs, "pixels", pixel, &row)?;
                strict(name, file, session.outputs(), OUTPUT, float, &dimension(model))?;
                &inputs[0]
            }
            model::Graph::File(_) => match inputs {
                [it] if takes(it, pixel, &row) => it,
                _ => {
                    let expected = format!("pixels of {}", described("any name", pixel, &row));
                    return Err(other(name, &model.image_graph, inputs, &expected));
                }
            },
        };
        let input = (input.name().to_owned(), is_single(input));
        let opened = Opened::new((session, place), name, (&model.image_graph, file), input)?;
        let mut graph = ImageGraph { graph: opened, pixels, binder: None };
        if graph.place().is_elsewhere() {
            graph.bind();
        }
        device::opened();
        Ok(graph)
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.graph.place
    }

    /// Rows of one call: fewer once the device had no memory.
    pub fn most_rows(&self) -> usize {
        self.graph.most_rows
    }

    /// What it takes.
    pub fn pixels(&self) -> Pixels {
        self.pixels
    }

    /// Encodes a picture of one colour.
    pub fn run_white(&mut self, model: &Model) -> Result<Vec<Answer>> {
        let side = model.manifest.image.size as usize;
        match self.pixels {
            Pixels::Floats => self.run(Array4::from_elem(f32::shape(1, side), 1.0).view()),
            Pixels::Bytes => self.run(Array4::from_elem(u8::shape(1, side), u8::MAX).view()),
        }
    }

    /// Lets blocks be bound to input and output, which leaves plain memory where it cannot be.
    fn bind(&mut self) {
        let Opened { session, place, input, output, .. } = &mut self.graph;
        let binder = Binder::new(session, place.device, input, output);
        let plain = |reason: &str| format!("plain: {reason}");
        (self.binder, place.memory) = match binder {
            Some(Ok(binder)) => (Some(binder), Some("pinned".to_owned())),
            Some(Err(err)) => (None, Some(plain(&err.to_string()))),
            None => (None, Some(plain("the device has no other"))),
        };
    }

    /// Room for pixels, where the device reads them by itself if that can be had.
    pub fn block<P: Pixel>(&mut self, shape: [usize; 4]) -> Block<P> {
        match self.binder.as_ref().map(|it| it.block(&self.graph.session, shape)) {
            Some(Ok(block)) => return block,
            Some(Err(err)) => self.graph.place.memory = Some(format!("plain: {err}")),
            None => {}
        }
        Block::Plain(Array4::from_elem(shape, P::default()))
    }

    /// The answers to the first `rows` of a block; all of it is computed. `sent` is what [`Block::send`] said.
    pub fn run_block<P: Pixel>(
        &mut self,
        block: &mut Block<P>,
        sent: ort::Result<()>,
        rows: usize,
    ) -> Result<Vec<Answer>> {
        let graph = &mut self.graph;
        let fits = block.rows() <= graph.most_rows;
        if let (Block::Bound(bound), Some(binder), true) = (&mut *block, &self.binder, fits) {
            let refused = |reason| Error::Inference { model: graph.model.clone(), reason };
            let outcome = sent
                .and_then(|()| binder.run(&mut graph.session, bound))
                .map_err(|err| refused(err.to_string()))
                .and_then(|it| answers(&it, &graph.output).map_err(refused));
            match outcome {
                Ok(mut all) if rows <= all.len() => {
                    graph.look_who_ran()?;
                    all.truncate(rows);
                    return Ok(all);
                }
                // It is halved below.
                Err(err) if 1 < rows && is_out_of_memory(&err) => {}
                Err(err) => return Err(err),
                Ok(all) => return Err(miscounted(rows, all.len())),
            }
        }
        let pixels = block.view().map_err(|err| self.graph.lost(&err))?;
        let computed = if fits { block.rows() } else { rows };
        let mut all = self.run(pixels.slice_axis(Axis(0), Slice::from(..computed)))?;
        all.truncate(rows);
        Ok(all)
    }

    /// The answers to pictures.
    pub fn run<P: Pixel>(&mut self, pixels: ArrayView4<'_, P>) -> Result<Vec<Answer>> {
        let graph = &mut self.graph;
        graph.by_rows(pixels.len_of(Axis(0)), |graph, rows| {
            let rows = pixels.slice_axis(Axis(0), Slice::from(rows));
            let pixels = TensorRef::from_array_view(rows).map_err(|err| graph.refused(err))?;
            graph.run(vec![(graph.input.clone(), pixels.into())])
        })
    }
}

impl TextGraph {
    /// Opens a model's text path.
    ///
    /// # Errors
    /// As [`ImageGraph::open`].
    pub fn open(name: &str, model: &Model) -> Result<TextGraph> {
        let row = [model.manifest.text.length as i64];
        let file = TEXT_GRAPH;
        let (session, place) = open(name, (&model.text_graph, file), None, cores())?;
        let inputs = session.inputs();
        let wide = TensorElementType::Int64;
        let whole = |it: &Outlet| {
            [TensorElementType::Int32, wide].into_iter().any(|element| takes(it, element, &row))
        };
        let (input, mask) = match &model.text_graph {
            model::Graph::Bytes(_) => {
                let is_free = matches!(inputs, [it] if fits(it, "tokens", wide, &[ANY]));
                let row = if is_free { [ANY] } else { row };
                strict(name, file, inputs, "tokens", wide, &row)?;
                let float = TensorElementType::Float32;
                strict(name, file, session.outputs(), OUTPUT, float, &dimension(model))?;
                (&inputs[0], None)
            }
            model::Graph::File(_) => {
                let mask = inputs.iter().find(|it| it.name() == MASK);
                let tokens = inputs.iter().find(|it| TOKENS.contains(&it.name()));
                let known = usize::from(mask.is_some()) + usize::from(tokens.is_some());
                match tokens {
                    Some(it) if known == inputs.len() && whole(it) && mask.is_none_or(whole) => {
                        (it, mask)
                    }
                    _ => {
                        let expected = format!(
                            "{} and perhaps {MASK}, int32 or int64 (batch, {})",
                            TOKENS.join(" or "),
                            row[0]
                        );
                        return Err(other(name, &model.text_graph, inputs, &expected));
                    }
                }
            }
        };
        let is_free = shape(input).get(1) == Some(&ANY);
        let is_own = matches!(model.text_graph, model::Graph::Bytes(_));
        // Elsewhere padding changes nothing only where a mask hides it.
        let any_length = is_free && (is_own || mask.is_some());
        let is_narrow = |it: &Outlet| element(it) == Some(TensorElementType::Int32);
        let mask = mask.map(|it| Wanted { name: it.name().to_owned(), narrow: is_narrow(it) });
        let narrow = is_narrow(input);
        let input = (input.name().to_owned(), is_single(input));
        let graph = Opened::new((session, place), name, (&model.text_graph, file), input)?;
        device::opened();
        Ok(TextGraph { graph, narrow, mask, any_length })
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.graph.place
    }

    /// Whether sentences of fewer slots than the manifest's are the same to it.
    pub fn takes_any_length(&self) -> bool {
        self.any_length
    }

    /// (batch, length) to as many embeddings; the first `used` tokens of each row count.
    pub fn run(&mut self, tokens: &Array2<i64>, used: &[usize]) -> Result<Vec<Embedding>> {
        let (narrow, mask) = (self.narrow, self.mask.as_ref());
        let counts = Array2::from_shape_fn(tokens.dim(), |(row, at)| i64::from(at < used[row]));
        let answers = self.graph.by_rows(tokens.nrows(), |graph, rows| {
            let rows = Slice::from(rows);
            let part = |it: &Array2<i64>, narrow: bool| {
                graph.integers(it.slice_axis(Axis(0), rows), narrow)
            };
            let mut inputs = vec![(graph.input.clone(), part(tokens, narrow)?)];
            if let Some(mask) = mask {
                inputs.push((mask.name.clone(), part(&counts, mask.narrow)?));
            }
            graph.run(inputs)
        });
        answers?.into_iter().map(Embedding::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::device::Device;
    use crate::encoder::precision::given;

    /// What is bound, whole or halved or plain, says what a plain call says.
    #[test]
    fn blocks_say_what_plain_pixels_say() {
        let model = Model::built_in().unwrap();
        let side = model.manifest.image.size as usize;
        let mut graph = ImageGraph::open("any", &model, 1).unwrap();
        let pixels = Array4::from_shape_fn((8, 3, side, side), |(row, channel, y, x)| {
            ((row + 1) as f32 * 0.01 * (x + 2 * y) as f32 + channel as f32).sin()
        });
        let first = pixels.slice_axis(Axis(0), Slice::from(..5));
        let expected = graph.run(first).unwrap();
        let run = |graph: &mut ImageGraph, block: &mut Block<f32>, rows| {
            let sent = block.send();
            graph.run_block(block, sent, rows).unwrap()
        };
        let check = |graph: &mut ImageGraph, block: &mut Block<f32>| {
            for (one, other) in run(graph, block, 5).iter().zip(&expected) {
                let cosine: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
                assert!(0.999_999 < cosine, "{cosine}");
            }
            assert_eq!(run(graph, block, 5).len(), 5);
        };
        let filled = |mut block: Block<f32>| {
            block.view_mut().unwrap().assign(&pixels);
            block
        };
        let mut plain = filled(graph.block([8, 3, side, side]));
        assert!(matches!(plain, Block::Plain(_)));
        check(&mut graph, &mut plain);
        graph.bind();
        assert_eq!(graph.place().memory.as_deref(), Some("pinned"));
        let mut pinned = filled(graph.block([8, 3, side, side]));
        assert!(matches!(pinned, Block::Bound(_)), "{:?}", graph.place().memory);
        check(&mut graph, &mut pinned);
        pinned.view_mut().unwrap().fill(0.25);
        assert_ne!(run(&mut graph, &mut pinned, 1)[0], expected[0]);
        pinned.view_mut().unwrap().assign(&pixels);
        let mut one = graph.block([1, 3, side, side]);
        one.view_mut().unwrap().assign(&pixels.slice_axis(Axis(0), Slice::from(..1)));
        assert_eq!(run(&mut graph, &mut one, 1).len(), 1);
        check(&mut graph, &mut pinned);
        graph.graph.most_rows = 2;
        check(&mut graph, &mut pinned);
    }

    /// What a GPU computes of the built-in model, which is quantized, lies where its own embeddings lie.
    #[test]
    fn halves_say_about_what_whole_numbers_say() {
        let whole = Model::built_in().unwrap();
        let half = |graph, image| {
            let (file, precision) = given(Device::Cuda, graph, image);
            assert_eq!(precision, Precision::Half);
            model::Graph::Bytes(file.unwrap().into())
        };
        let mut halves = Model::built_in().unwrap();
        halves.image_graph = half(&whole.image_graph, Some(&whole.manifest.image));
        halves.manifest.image.pixels = Pixels::Bytes;
        halves.text_graph = half(&whole.text_graph, None);

        let image = &whole.manifest.image;
        let side = image.size as usize;
        let bytes = Array4::from_shape_fn((2, side, side, 3), |(row, y, x, channel)| {
            (40 * ((row + 1) * (x / 24 + 2 * (y / 30)) + channel)) as u8
        });
        let floats = Array4::from_shape_fn((2, 3, side, side), |(row, channel, y, x)| {
            let share = f32::from(bytes[[row, y, x, channel]]) / 255.0;
            (share - image.mean[channel]) / image.std[channel]
        });
        let mut pictures = [&whole, &halves].map(|it| ImageGraph::open("any", it, 1).unwrap());
        assert_eq!(pictures.each_ref().map(ImageGraph::pixels), [Pixels::Floats, Pixels::Bytes]);
        let pictures =
            [pictures[0].run(floats.view()).unwrap(), pictures[1].run(bytes.view()).unwrap()];
        let tokens = Array2::from_shape_fn((2, 6), |(row, at)| (5 + 40 * row + 7 * at) as i64);
        let sentences = [&whole, &halves].map(|it| -> Vec<Answer> {
            let rows = TextGraph::open("any", it).unwrap().run(&tokens, &[6, 6]).unwrap();
            rows.iter().map(|it| it.as_slice().to_vec()).collect()
        });
        for [whole, half] in [pictures, sentences] {
            assert_eq!((whole.len(), half.len()), (2, 2));
            for (whole, half) in whole.iter().zip(&half) {
                let cosine: f32 = whole.iter().zip(half).map(|(a, b)| a * b).sum();
                assert!(0.98 < cosine && cosine < 1.01, "{cosine}");
            }
        }
    }
}
