//! `USING dualpath(key = value, ...)`.

use crate::error::{Error, Result};
use crate::store::MOST_DIMENSIONS;

/// What the parentheses say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A loaded model's name; the built-in one without it.
    pub model: Option<String>,
    /// Bring-your-own vectors of this many numbers.
    pub dimensions: Option<usize>,
}

const KNOWN: &str = "model = 'name', dimensions = number";

impl Options {
    /// # Errors
    /// An unknown key, a key without value or given twice, both keys at once.
    pub fn read(words: &[String]) -> Result<Options> {
        let mut options = Options::default();
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
                key @ ("model" | "dimensions") => {
                    return Err(Error::Usage(format!("the option '{key}' is given twice")));
                }
                key => {
                    return Err(Error::Usage(format!(
                        "there is no option '{key}' (options are {KNOWN})"
                    )));
                }
            }
        }
        if options.model.is_some() && options.dimensions.is_some() {
            return Err(Error::Usage(
                "model and dimensions exclude each other (a model decides its dimensions)"
                    .to_owned(),
            ));
        }
        Ok(options)
    }
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
            (&["dimensions = -1"], "dimensions is '-1'"),
            (&["model = a", "model = b"], "given twice"),
            (&["model = a", "dimensions = 3"], "exclude each other"),
        ] {
            let message = read(words).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
