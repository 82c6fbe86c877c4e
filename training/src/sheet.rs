//! `retrieval.html`: for thirty validation sentences the ten nearest photographs, the right one marked.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use image::codecs::jpeg::JpegEncoder;
use tch::Tensor;

use crate::data::Picture;
use crate::torch::numbers;

/// Photographs a sentence.
const NEAREST: usize = 10;
/// Sentences of a kind.
const ROWS: usize = 10;
/// Pixels of a thumbnail's longer side.
const THUMBNAIL: u32 = 128;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:90rem;padding:0 1rem;\
color:#222;background:#fff}h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
section{border-top:1px solid #ddd;padding:.7rem 0}p{margin:0 0 .4rem}small{color:#666}\
ol{display:grid;grid-template-columns:repeat(10,1fr);gap:.4rem;list-style:none;margin:0;padding:0}\
img{width:100%;aspect-ratio:1;object-fit:cover;border-radius:4px;display:block}\
.right img{outline:4px solid #1a7f37;outline-offset:-1px}figure{margin:0}figcaption{font-size:12px;color:#666}\
@media(max-width:700px){ol{grid-template-columns:repeat(5,1fr)}}";

struct Sentence<'a> {
    text: &'a str,
    owner: usize,
    rank: usize,
    /// How much nearer the right photograph is than the best wrong one.
    margin: f32,
}

/// Writes the sheet from unit embeddings (N, D) and (M, D); `owner` says whose each sentence is.
pub fn write(
    to: &Path,
    title: &str,
    pictures: &[&Picture],
    embedded: [&Tensor; 2],
    owner: &[usize],
    texts: &[&str],
) -> Result<()> {
    let [images, sentences] = embedded;
    let cosines = |at: usize| tch::no_grad(|| numbers(&images.mv(&sentences.get(at as i64))));
    let mut all = Vec::with_capacity(texts.len());
    for (at, (text, owner)) in texts.iter().zip(owner).enumerate() {
        let row = cosines(at);
        let own = row[*owner];
        let rank = 1 + row.iter().filter(|it| own < **it).count();
        let others = row.iter().enumerate().filter(|it| it.0 != *owner);
        let margin = own - others.map(|it| *it.1).fold(-1.0, f32::max);
        all.push((at, Sentence { text, owner: *owner, rank, margin }));
    }
    all.sort_by(|a, b| b.1.margin.total_cmp(&a.1.margin));
    let rows = ROWS.min(all.len() / 3);
    let middle = (all.len() - rows) / 2;
    let groups = [
        ("Found by the widest margin", &all[..rows]),
        ("In the middle of all sentences", &all[middle..middle + rows]),
        ("Missed by the widest margin", &all[all.len() - rows..]),
    ];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style><h1>{0}: sentences and the photographs they find</h1>\
         <p>{1} photographs, {2} sentences; the ten nearest by cosine, the right one framed.</p>",
        escaped(title),
        pictures.len(),
        texts.len()
    );
    for (heading, group) in groups {
        write!(html, "<h2>{heading}</h2>")?;
        for (at, sentence) in group {
            let row = cosines(*at);
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            write!(
                html,
                "<section><p>{} <small>right photograph at rank {}</small></p><ol>",
                escaped(sentence.text),
                sentence.rank
            )?;
            for near in order.into_iter().take(NEAREST) {
                let right = if near == sentence.owner { " class=\"right\"" } else { "" };
                write!(
                    html,
                    "<li{right}><figure><img src=\"data:image/jpeg;base64,{}\" alt=\"{}\"><figcaption>{:.3}</figcaption></figure></li>",
                    thumbnail(pictures[near])?,
                    escaped(&pictures[near].name),
                    row[near]
                )?;
            }
            html.push_str("</ol></section>");
        }
    }
    html.push_str("</html>\n");
    std::fs::write(to, html).with_context(|| format!("writing {}", to.display()))
}

fn thumbnail(picture: &Picture) -> Result<String> {
    let decoded = dualpath::image::decode(&picture.read()?)
        .with_context(|| format!("decoding {}", picture.name))?;
    let (width, height) = decoded.dimensions();
    let scale = f64::from(THUMBNAIL) / f64::from(width.max(height));
    let side = |full: u32| ((f64::from(full) * scale).round() as u32).max(1);
    let small = image::imageops::thumbnail(&decoded, side(width), side(height));
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 80).encode_image(&small)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(jpeg))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;
    use tch::{Device, Kind};

    #[test]
    fn the_right_photograph_is_framed() {
        let folder = tempfile::tempdir().unwrap();
        let pictures: Vec<Picture> = (0..6u8)
            .map(|at| {
                let file = folder.path().join(format!("{at}.png"));
                image::RgbImage::from_pixel(40, 30, image::Rgb([at * 40, 0, 0]))
                    .save(&file)
                    .unwrap();
                let bytes = file.metadata().unwrap().len();
                let name = format!("{at}.png");
                Picture {
                    name,
                    split: Split::Val,
                    class: None,
                    sentences: vec![],
                    file,
                    offset: 0,
                    bytes,
                }
            })
            .collect();
        let pictures: Vec<&Picture> = pictures.iter().collect();
        let eye = Tensor::eye(6, (Kind::Float, Device::Cpu));
        let to = folder.path().join("retrieval.html");
        let texts = ["<b>", "1", "2", "3", "4", "5"];
        write(&to, "run", &pictures, [&eye, &eye], &[0, 1, 2, 3, 4, 5], &texts).unwrap();
        let html = std::fs::read_to_string(&to).unwrap();
        assert_eq!(html.matches("<section>").count(), 6);
        assert_eq!(html.matches("class=\"right\"").count(), 6);
        assert_eq!(html.matches("rank 1<").count(), 6);
        assert!(html.contains("&lt;b&gt;"));
    }
}
