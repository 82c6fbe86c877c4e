//! What `train eval` prints.

use anyhow::Result;

use crate::eval::{self, Ranks, Recall, Report};

/// The mean over folds, with intervals where there is one fold.
pub fn print(folds: &[Ranks], json: bool) -> Result<()> {
    let reports: Vec<Report> = folds.iter().map(Ranks::report).collect();
    let report = eval::mean(&reports);
    let intervals = match folds {
        [one] => Some(one.intervals()),
        _ => None,
    };
    if json {
        let mut object = serde_json::json!({"folds": folds.len(), "recall": report});
        if let Some([low, high]) = intervals {
            object["interval_95"] = serde_json::json!({"low": low, "high": high});
        }
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    println!("{:<14}{:>20}{:>20}{:>20}{:>16}{:>20}", "", "R@1", "R@5", "R@10", "median", "mAP");
    type Way = fn(&Report) -> &Recall;
    let ways: [(&str, Way); 2] =
        [("text to image", |it| &it.text_to_image), ("image to text", |it| &it.image_to_text)];
    for (name, way) in ways {
        let cell = |figure: fn(&Recall) -> f64, digits: usize| {
            let value = format!("{:.digits$}", figure(way(&report)));
            match &intervals {
                None => value,
                Some([low, high]) => {
                    format!(
                        "{value} ({:.digits$}-{:.digits$})",
                        figure(way(low)),
                        figure(way(high))
                    )
                }
            }
        };
        println!(
            "{name:<14}{:>20}{:>20}{:>20}{:>16}{:>20}",
            cell(|it| it.at_1, 1),
            cell(|it| it.at_5, 1),
            cell(|it| it.at_10, 1),
            cell(|it| it.median_rank, 0),
            cell(|it| it.mean_average_precision, 1),
        );
    }
    match folds.len() {
        1 => println!("in brackets: 95 % intervals, 1,000 bootstrap samples of the pictures"),
        count => println!("means over {count} folds"),
    }
    Ok(())
}
