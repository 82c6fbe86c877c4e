//! `curves.svg`: losses, recall and rate over the epochs of a log.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde_json::Value;

const SIZE: (u32, u32) = (900, 960);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// A line of a panel: its name, and where a log's object has its values.
type Line = (&'static str, &'static str);

const PANELS: [(&str, &[Line]); 3] = [
    (
        "loss, mean of the epoch",
        &[
            ("instance, pictures", "/image"),
            ("instance, sentences", "/text"),
            ("ranking", "/ranking"),
        ],
    ),
    (
        "validation recall, percent",
        &[
            ("text to image R@1", "/recall/text_to_image/at_1"),
            ("text to image R@10", "/recall/text_to_image/at_10"),
            ("image to text R@1", "/recall/image_to_text/at_1"),
            ("image to text R@10", "/recall/image_to_text/at_10"),
        ],
    ),
    ("learning rate at the epoch's end", &[("rate", "/rate")]),
];

/// Draws the log; an old drawing stays until the new one is whole.
pub fn draw(log: &Path, name: &str, to: &Path) -> Result<()> {
    let text =
        std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    let epochs: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("reading {}", log.display()))?;
    let mut svg = String::new();
    panels(&epochs, name, &mut svg).map_err(|err| anyhow!("drawing the curves: {err}"))?;
    let partial = to.with_extension("partial");
    std::fs::write(&partial, svg).with_context(|| format!("writing {}", partial.display()))?;
    std::fs::rename(&partial, to).with_context(|| format!("replacing {}", to.display()))
}

fn panels(
    epochs: &[Value],
    name: &str,
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(name, ("sans-serif", 22))?;
    // Where one stage gives way to the next.
    let begins: Vec<f64> = epochs
        .windows(2)
        .zip(1..)
        .filter(|(pair, _)| pair[0]["stage"] != pair[1]["stage"])
        .map(|(_, at)| f64::from(at) + 0.5)
        .collect();
    for (area, (title, lines)) in area.split_evenly((PANELS.len(), 1)).iter().zip(PANELS) {
        let points = |path: &str| -> Vec<(f64, f64)> {
            let values = epochs.iter().zip(1..);
            values
                .filter_map(|(it, at)| Some((f64::from(at), it.pointer(path)?.as_f64()?)))
                .collect()
        };
        let most = lines.iter().flat_map(|it| points(it.1)).map(|it| it.1).fold(1e-9, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 15))
            .margin(10)
            .x_label_area_size(28)
            .y_label_area_size(60)
            .build_cartesian_2d(0.5..epochs.len() as f64 + 0.5, 0.0..1.05 * most)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("epoch")
            .x_label_formatter(&|it| format!("{it:.0}"))
            .draw()?;
        for begin in &begins {
            let line = [(*begin, 0.0), (*begin, 1.05 * most)];
            chart.draw_series(std::iter::once(PathElement::new(line, BLACK.mix(0.4))))?;
        }
        for ((label, path), colour) in lines.iter().zip(COLOURS) {
            let points = points(path);
            let style = colour.stroke_width(2);
            // One epoch alone would be no line.
            chart.draw_series(points.iter().map(|it| Circle::new(*it, 2, colour.filled())))?;
            chart
                .draw_series(LineSeries::new(points, style))?
                .label(*label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_three_panels() {
        let folder = tempfile::tempdir().unwrap();
        let (log, to) = (folder.path().join("log.jsonl"), folder.path().join("curves.svg"));
        let line = |stage: usize, at_1: f64| {
            let recall = serde_json::json!({"at_1": at_1, "at_10": 50.0});
            let recall = serde_json::json!({"text_to_image": recall, "image_to_text": recall});
            serde_json::json!({"stage": stage, "image": 7.5, "text": 7.0, "ranking": 2.0, "rate": 1e-3, "recall": recall})
                .to_string()
        };
        std::fs::write(&log, [line(1, 5.0), line(1, 8.0), line(2, 9.0)].join("\n")).unwrap();
        draw(&log, "a run", &to).unwrap();
        let svg = std::fs::read_to_string(&to).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["a run", "text to image R@10", "ranking", "learning rate"] {
            assert!(svg.contains(text), "{text}");
        }
        std::fs::write(&log, "no json").unwrap();
        assert!(draw(&log, "a run", &to).is_err());
        assert_eq!(std::fs::read_to_string(&to).unwrap(), svg);
    }
}
