//! `USING dualpath(key = value, ...)`.

use crate::error::{Error, Result};
use crate::index::{Metric, Storage};
use crate::store::{ContentTable, MOST_DIMENSIONS, PictureColumn};

/// What the parentheses say.
#[derive(Debug, Default, PartialEq)]
pub struct Options {
    /// A loaded model's name; the built-in one without it.
    pub model: Option<String>,
    /// Bring-your-own vectors of this many numbers.
    pub dimensions: Option<usize>,
    /// The table that it is over.
    pub content: Option<ContentTable>,
    /// The share of the nearest rows that a search of a large table finds.
    pub recall: Option<f64>,
    /// How vectors are compared.
    pub metric: Option<Metric>,
    /// How exact they are kept.
    pub storage: Option<Storage>,
}

const KNOWN: &str = "model = 'name', dimensions = number, content = 'table', content_rowid = 'column', image = 'column', path = 'column', text = 'column', recall = number, metric = 'cosine' | 'dot' | 'l2', storage = 'f32' | 'f16' | 'int8'";
/// Those that describe a content table.
const CONTENT: [&str; 5] = ["content", "content_rowid", "image", "path", "text"];

impl Options {
    /// # Errors
    /// An unknown key, a key without value or given twice, keys that exclude each other.
    pub fn read(words: &[String]) -> Result<Options> {
        let mut options = Options::default();
        let mut of_content: [Option<String>; 5] = Default::default();
        for word in words.iter().map(|it| it.trim()).filter(|it| !it.is_empty()) {
            let Some((key, value)) = word.split_once('=') else {
                return Err(Error::Usage(format!("'{word}' is no option (options are {KNOWN})")));
            };
            let value = unquoted(value.trim());
            match key.trim().to_ascii_lowercase().as_str() {
                "model" if options.model.is_none() => options.model = Some(value),
                "dimensions" if options.dimensions.is_none() => {
                    let number = value.parse().ok().filter(|it| (1..=MOST_DIMENSIONS).contains(it));
                    options.dimensions = Some(number.ok_or_else(|| {
                        Error::Usage(format!("dimensions is '{value}' (1 to {MOST_DIMENSIONS})"))
                    })?);
                }
                "recall" if options.recall.is_none() => {
                    let number = value.parse().ok().filter(|it| is_recall(*it));
                    options.recall = Some(number.ok_or_else(|| not_recall(&value))?);
                }
                "metric" if options.metric.is_none() => {
                    options.metric = Some(Metric::named(&value)?)
                }
                "storage" if options.storage.is_none() => {
                    options.storage = Some(Storage::named(&value)?);
                }
                key @ ("model" | "dimensions" | "recall" | "metric" | "storage") => {
                    return Err(twice(key));
                }
                key => match CONTENT.iter().position(|it| *it == key) {
                    Some(at) if of_content[at].is_none() => of_content[at] = Some(value),
                    Some(_) => return Err(twice(key)),
                    None => {
                        return Err(Error::Usage(format!(
                            "there is no option '{key}' (options are {KNOWN})"
                        )));
                    }
                },
            }
        }
        if options.model.is_some() && options.dimensions.is_some() {
            return Err(Error::Usage(
                "model and dimensions exclude each other (a model decides its dimensions)"
                    .to_owned(),
            ));
        }
        options.content = content(of_content)?;
        if options.content.is_some() && options.dimensions.is_some() {
            return Err(Error::Usage(
                "content and dimensions exclude each other (what is in a content table has to be encoded)"
                    .to_owned(),
            ));
        }
        let metric = options.metric.unwrap_or_default();
        if metric != Metric::Cosine && options.dimensions.is_none() {
            return Err(Error::Usage(format!(
                "metric is '{}', but embeddings of a model are compared by 'cosine' (only a table with dimensions = number has another metric)",
                metric.name()
            )));
        }
        Ok(options)
    }
}

/// Whether a share of the nearest rows can be asked for.
pub fn is_recall(number: f64) -> bool {
    0.0 < number && number <= 1.0
}

/// What to say of one that cannot.
pub fn not_recall(given: &str) -> Error {
    Error::Usage(format!("recall is {given} (a number above 0 and up to 1, which is exact)"))
}

fn twice(key: &str) -> Error {
    Error::Usage(format!("the option '{key}' is given twice"))
}

fn content(options: [Option<String>; 5]) -> Result<Option<ContentTable>> {
    let refused = |words: String| Err(Error::Usage(words));
    let lone = CONTENT.iter().zip(&options).find(|it| it.1.is_some()).map(|it| *it.0);
    let [name, rowid, image, path, sentence] = options;
    let Some(name) = name else {
        return match lone {
            None => Ok(None),
            Some(key) => refused(format!(
                "{key} names a column of a content table (say which: content = 'table')"
            )),
        };
    };
    let picture = match (image, path) {
        (Some(_), Some(_)) => {
            return refused(
                "image and path exclude each other (a picture is in the table or in a file)"
                    .to_owned(),
            );
        }
        (Some(column), None) => Some(PictureColumn::Bytes(column)),
        (None, Some(column)) => Some(PictureColumn::Path(column)),
        (None, None) => None,
    };
    if picture.is_none() && sentence.is_none() {
        return refused(format!(
            "nothing of {name} is encoded (name a column: image = 'jpeg', path = 'file' or text = 'caption')"
        ));
    }
    let rowid = rowid.unwrap_or_else(|| "rowid".to_owned());
    Ok(Some(ContentTable { name, rowid, picture, sentence }))
}

/// SQL's quotes around a value are not part of it.
fn unquoted(value: &str) -> String {
    for quote in ['\'', '"'] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|it| it.strip_suffix(quote)) {
            return inner.replace(&format!("{quote}{quote}"), &quote.to_string());
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Options> {
        Options::read(&words.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn keys_and_quotes() {
        assert_eq!(read(&[]).unwrap(), Options::default());
        assert_eq!(read(&[" model = 'it''s' "]).unwrap().model.as_deref(), Some("it's"));
        assert_eq!(read(&["DIMENSIONS=3"]).unwrap().dimensions, Some(3));
    }

    #[test]
    fn refusals_name_the_word() {
        for (words, part) in [
            (&["modell = 'x'"][..], "no option 'modell'"),
            (&["x"], "'x' is no option"),
            (&["dimensions = 0"], "dimensions is '0'"),
            (&["recall = 2"], "recall is 2 (a number above 0 and up to 1"),
            (&["recall = 0"], "recall is 0"),
            (&["recall = NaN"], "recall is NaN"),
            (&["recall = 1", "recall = 1"], "given twice"),
            (&["dimensions = -1"], "dimensions is '-1'"),
            (&["model = a", "model = b"], "given twice"),
            (
                &["dimensions = 2", "metric = 'euclid'"],
                "metric is 'euclid' (one of 'cosine', 'dot' or 'l2')",
            ),
            (&["dimensions = 2", "metric = l2", "metric = l2"], "'metric' is given twice"),
            (
                &["metric = 'l2'"],
                "metric is 'l2', but embeddings of a model are compared by 'cosine'",
            ),
            (&["storage = 'f8'"], "storage is 'f8' (one of 'f32', 'f16' or 'int8')"),
            (&["storage = f16", "storage = f16"], "'storage' is given twice"),
            (&["model = a", "dimensions = 3"], "exclude each other"),
            (&["content = p", "image = i", "dimensions = 3"], "exclude each other"),
            (&["content = p", "image = i", "path = f"], "exclude each other"),
            (&["content = p"], "nothing of p is encoded"),
            (&["image = i"], "image names a column of a content table"),
            (&["content = p", "text = a", "text = b"], "'text' is given twice"),
        ] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
