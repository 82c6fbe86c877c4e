//! Text paths: a word lookup, residual blocks of 1x1, 1x2, 1x1 convolutions that see the word
//! before, one row per sentence.

use serde::Deserialize;

use super::{Layer, Pooling, block, conv, linear, norm};

/// Which text path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The paper's, whole (section 2.3): 14 blocks, 32 -> 16 -> 8 positions, the largest of all
    /// positions, empty ones among them.
    Paper,
    /// Its shape at compact width, the largest over real words only.
    Strided,
    /// Every word keeps its position to the end: three blocks, no stride.
    Flat,
    /// The same, whose mean over the words goes on beside the largest.
    FlatMeanMax,
}

/// The whole text path, token ids (batch, length) to unit embeddings (batch, dimension).
pub fn path(form: Form, words: i64, dimension: i64, dropout: f64) -> Vec<Layer> {
    let bias = form == Form::Paper;
    let mut path = vec![
        Layer::Lookup { name: "lookup".into(), words, width: 300, bias }, // (B, 300, 1, 32)
        norm("lookup_bn", 300),
    ];
    let blocks = |of: &[(i64, i64, i64, i64)]| {
        let numbered = of.iter().zip(1..);
        numbered
            .map(|((input, middle, output, stride), at)| {
                residual(&format!("text{at}"), *input, *middle, *output, *stride)
            })
            .collect::<Vec<_>>()
    };
    let wide = match form {
        Form::Paper => {
            let mut of = vec![(300, 128, 256, 1), (256, 64, 256, 1), (256, 64, 256, 1)]; // (B, 256, 1, 32)
            of.push((256, 512, 512, 2)); // (B, 512, 1, 16)
            of.extend([(512, 128, 512, 1); 3]);
            of.push((512, 1024, 1024, 2)); // (B, 1024, 1, 8)
            of.extend([(1024, 256, 1024, 1); 5]);
            of.push((1024, 2048, 2048, 1)); // (B, 2048, 1, 8)
            path.extend(blocks(&of));
            path.push(Layer::Pool(Pooling::Max)); // (B, 2048)
            2048
        }
        Form::Strided => {
            let mut of = vec![(300, 128, 256, 1), (256, 128, 256, 1)]; // (B, 256, 1, 32)
            of.push((256, 256, 512, 2)); // (B, 512, 1, 16)
            of.extend([(512, 128, 512, 1); 2]);
            of.push((512, 384, 1024, 2)); // (B, 1024, 1, 8)
            of.push((1024, 256, 1024, 1));
            path.extend(blocks(&of));
            path.push(Layer::WordMax { halvings: 2 }); // (B, 1024)
            1024
        }
        Form::Flat | Form::FlatMeanMax => {
            path.extend(blocks(&[(300, 256, 512, 1), (512, 256, 512, 1), (512, 256, 1024, 1)]));
            if form == Form::Flat {
                path.push(Layer::WordMax { halvings: 0 }); // (B, 1024)
                1024
            } else {
                // Largest values are an order above means: one scale for both.
                path.extend([Layer::WordMeanMax, norm("text_pool_bn", 2048)]); // (B, 2048)
                2048
            }
        }
    };
    path.extend([
        Layer::Dropout { rate: dropout },
        linear("text_fc", wide, dimension),
        norm("text_bn", dimension), // (B, dimension)
        Layer::Unit,
    ]);
    path
}

/// The same path with its test-time placements summed (section 2.4): 1, 4, or as many as there are slots.
pub fn shifted(path: &[Layer], shifts: i64) -> Vec<Layer> {
    match path {
        [layers @ .., Layer::Unit] if 1 < shifts => {
            vec![Layer::Shifted { shifts, layers: layers.to_vec() }, Layer::Unit]
        }
        _ => path.to_vec(),
    }
}

/// Slots at a sentence's end that a path's strides step over, its length being even.
pub fn unseen_slots(path: &[Layer]) -> usize {
    let halvings = path.iter().find_map(|it| match it {
        Layer::WordMax { halvings } => Some(*halvings),
        _ => None,
    });
    (1 << halvings.unwrap_or(0)) - 1
}

fn residual(name: &str, input: i64, middle: i64, output: i64, stride: i64) -> Layer {
    let part = |it: &str| format!("{name}.{it}");
    let along = |at: &str, input, output, width: i64, stride: i64| {
        let mut conv = conv(&part(at), input, output, 1);
        conv.kernel = [1, width];
        conv.stride = [1, stride];
        // Left padding only: a word sees the one before it.
        conv.pads = [0, width - 1, 0, 0];
        conv.bias = false;
        conv.layer()
    };
    let branch = vec![
        along("conv1", input, middle, 1, 1),
        norm(&part("bn1"), middle),
        Layer::Relu,
        along("conv2", middle, middle, 2, stride),
        norm(&part("bn2"), middle),
        Layer::Relu,
        along("conv3", middle, output, 1, 1),
        norm(&part("bn3"), output),
    ];
    let shortcut = if input == output && stride == 1 {
        vec![]
    } else {
        vec![along("project", input, output, 1, stride), norm(&part("project_bn"), output)]
    };
    block(name, vec![Layer::Sum { branch, shortcut }, Layer::Relu])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{parameters, size};

    /// Sections 2.3 and 9.3: 36.32 million for Flickr30k's dictionary, 39.29 for COCO's, 32.48 for CUHK-PEDES'.
    #[test]
    fn the_papers_text_path_has_its_published_size() {
        for (dictionary, millions) in [(20_074, 36.32), (29_972, 39.29), (7_263, 32.48)] {
            // Our table has a row for the empty position, which the paper's has as zeros.
            let path = path(Form::Paper, dictionary + 1, 2048, 0.75);
            let size = (size(&path) - 300) as f64 / 1e6;
            assert!((size - millions).abs() < 0.005, "{size} for {dictionary} words");
        }
        let blocks = path(Form::Paper, 9, 2048, 0.0);
        assert_eq!(blocks.iter().filter(|it| matches!(it, Layer::Block { .. })).count(), 14);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> =
            parameters(&path(Form::Paper, 10, 4, 0.0)).into_iter().map(|it| it.name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
