//! A contact sheet: one page that holds its pictures, to be kept or sent.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::picture;

/// Pixels a side of a thumbnail.
const THUMBNAIL: u32 = 480;

/// What stands below a heading: a title, a distance, and the picture's bytes or why there are none.
pub struct Entry {
    pub title: String,
    pub distance: f64,
    pub picture: anyhow::Result<Vec<u8>>,
}

/// The page.
pub fn page(heading: &str, entries: &[Entry]) -> String {
    let mut figures = String::new();
    for Entry { title, distance, picture } in entries {
        let small = picture.as_ref().map_err(|err| err.to_string());
        let small =
            small.and_then(|it| picture::jpeg(it, THUMBNAIL).map_err(|err| err.to_string()));
        let shown = match small {
            Ok(jpeg) => {
                format!(r#"<img src="data:image/jpeg;base64,{}" alt="">"#, STANDARD.encode(jpeg))
            }
            Err(reason) => format!("<p>{}</p>", escaped(&reason)),
        };
        let title = escaped(title);
        let _ = writeln!(
            figures,
            "<figure>{shown}<figcaption><span>{title}</span> <b>{distance:.3}</b></figcaption></figure>"
        );
    }
    include_str!("sheet.html")
        .replace("{heading}", &escaped(heading))
        .replace("{figures}", &figures)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_is_markup() {
        let entry = |picture| Entry { title: "<b>&.jpg".to_owned(), distance: 0.5, picture };
        let broken = entry(Err(anyhow::anyhow!("it <is> gone")));
        let page = page("\"a\" > b", &[broken, entry(Ok(b"no picture".to_vec()))]);
        for words in [
            "&quot;a&quot; &gt; b",
            "&lt;b&gt;&amp;.jpg",
            "it &lt;is&gt; gone",
            "0.500",
            "no known signature",
        ] {
            assert!(page.contains(words), "{words}");
        }
    }
}
