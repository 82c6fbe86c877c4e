//! The forms in which captions come.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Split;

/// How a captions file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Karpathy's `dataset_{flickr8k,flickr30k,coco}.json`.
    #[default]
    Karpathy,
    /// Flickr30k's `results_20130124.token`: `name.jpg#0`, a tab, a caption.
    Flickr30k,
    /// MS-COCO's `captions_*.json`.
    Coco,
    /// CUHK-PEDES' `reid_raw.json` or `caption_all.json`: one class per person.
    CuhkPedes,
    /// A header with `file` and `caption`, and if wanted `split` and `class`; a row a caption.
    Csv,
    /// One object a line: `file`, `caption` or `captions`, and if wanted `split` and `class`.
    JsonLines,
}

/// A picture's name and what a captions file says of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Captioned {
    pub name: String,
    /// None where the file names no parts.
    pub split: Option<Split>,
    pub class: Option<String>,
    pub sentences: Vec<String>,
}

impl Captioned {
    /// For people who look for a contradiction.
    pub fn place(&self) -> String {
        let split = match self.split {
            Some(Split::Train) => "in 'train'",
            Some(Split::Val) => "in 'val'",
            Some(Split::Test) => "in 'test'",
            None => "in no part",
        };
        match &self.class {
            Some(class) => format!("{split} with class '{class}'"),
            None => split.to_owned(),
        }
    }
}

/// Reads a captions file.
///
/// # Errors
/// A file that cannot be read or is written in another form: names the file, the line where lines
/// count, and what is wrong there.
pub fn read(form: Form, file: &Path) -> Result<Vec<Captioned>> {
    let bytes =
        std::fs::read(file).with_context(|| format!("reading the captions {}", file.display()))?;
    let all = match form {
        Form::Karpathy => karpathy(&bytes),
        Form::Flickr30k => flickr30k(&bytes),
        Form::Coco => coco(&bytes),
        Form::CuhkPedes => cuhk_pedes(&bytes),
        Form::Csv => rows(csv::Reader::from_reader(&bytes[..]).deserialize().zip(2..)),
        Form::JsonLines => {
            let lines = bytes.split(|it| *it == b'\n').zip(1..);
            let full = lines.filter(|it| !it.0.trim_ascii().is_empty());
            rows(full.map(|(line, at)| (serde_json::from_slice(line), at)))
        }
    };
    let all = all.with_context(|| format!("{} is not in the form {form:?}", file.display()))?;
    if all.is_empty() {
        bail!("{} captions no picture", file.display());
    }
    Ok(all)
}

/// Keys that are not needed are passed over, in all of these.
#[derive(Deserialize)]
struct Karpathy {
    images: Vec<KarpathyImage>,
}

#[derive(Deserialize)]
struct KarpathyImage {
    /// COCO's: `train2014` or `val2014`.
    filepath: Option<String>,
    filename: String,
    split: Split,
    sentences: Vec<KarpathySentence>,
}

#[derive(Deserialize)]
struct KarpathySentence {
    raw: String,
}

fn karpathy(bytes: &[u8]) -> Result<Vec<Captioned>> {
    let captions: Karpathy = serde_json::from_slice(bytes)?;
    let images = captions.images.into_iter().map(|it| Captioned {
        name: match it.filepath {
            Some(folder) => format!("{folder}/{}", it.filename),
            None => it.filename,
        },
        split: Some(it.split),
        class: None,
        sentences: it.sentences.into_iter().map(|it| it.raw).collect(),
    });
    Ok(images.collect())
}

fn flickr30k(bytes: &[u8]) -> Result<Vec<Captioned>> {
    let text = std::str::from_utf8(bytes)?;
    let mut all: Vec<Captioned> = Vec::new();
    for (line, at) in text.lines().zip(1..).filter(|it| !it.0.trim().is_empty()) {
        let parts = line.split_once('\t').and_then(|(key, caption)| {
            let (name, number) = key.rsplit_once('#')?;
            number.parse::<u32>().ok().map(|_| (name, caption.trim()))
        });
        let Some((name, caption)) = parts else {
            bail!("line {at} is not `name.jpg#number`, a tab, a caption");
        };
        if all.last().is_none_or(|it| it.name != name) {
            let name = name.to_owned();
            all.push(Captioned { name, split: None, class: None, sentences: vec![] });
        }
        if let Some(last) = all.last_mut() {
            last.sentences.push(caption.to_owned());
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoCaption>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct CocoCaption {
    image_id: u64,
    caption: String,
}

fn coco(bytes: &[u8]) -> Result<Vec<Captioned>> {
    let captions: Coco = serde_json::from_slice(bytes)?;
    let mut by_id = HashMap::new();
    let mut all = Vec::new();
    for it in captions.images {
        if by_id.insert(it.id, all.len()).is_some() {
            bail!("two images have the id {}", it.id);
        }
        all.push(Captioned { name: it.file_name, split: None, class: None, sentences: vec![] });
    }
    for it in captions.annotations {
        let Some(at) = by_id.get(&it.image_id) else {
            bail!("a caption belongs to the image {}, which is not listed", it.image_id);
        };
        all[*at].sentences.push(it.caption.trim().to_owned());
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Person {
    id: u64,
    file_path: String,
    captions: Vec<String>,
    split: Option<Split>,
}

fn cuhk_pedes(bytes: &[u8]) -> Result<Vec<Captioned>> {
    let persons: Vec<Person> = serde_json::from_slice(bytes)?;
    let pictures = persons.into_iter().map(|it| Captioned {
        name: it.file_path,
        split: it.split,
        class: Some(it.id.to_string()),
        sentences: it.captions,
    });
    Ok(pictures.collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    file: String,
    caption: Option<String>,
    #[serde(default)]
    captions: Vec<String>,
    split: Option<Split>,
    class: Option<String>,
}

/// Rows of the same file are one picture, wherever they stand.
fn rows<E>(rows: impl Iterator<Item = (Result<Row, E>, usize)>) -> Result<Vec<Captioned>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut all: Vec<Captioned> = Vec::new();
    for (row, at) in rows {
        let row = row.with_context(|| format!("line {at}"))?;
        let sentences: Vec<String> = row.caption.into_iter().chain(row.captions).collect();
        if sentences.iter().all(|it| it.trim().is_empty()) {
            bail!("line {at}: {} has no caption", row.file);
        }
        let class = row.class.filter(|it| !it.is_empty());
        let place = *places.entry(row.file.clone()).or_insert(all.len());
        match all.get_mut(place) {
            None => all.push(Captioned { name: row.file, split: row.split, class, sentences }),
            Some(known) if (known.split, &known.class) == (row.split, &class) => {
                known.sentences.extend(sentences);
            }
            Some(known) => {
                let (name, before) = (row.file, known.place());
                let now = Captioned { name, split: row.split, class, sentences: vec![] };
                bail!("line {at}: {} is {} and was {before}", now.name, now.place());
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(form: Form, text: &str) -> Result<Vec<Captioned>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(form, file.path())
    }

    fn refused(form: Form, text: &str) -> String {
        format!("{:#}", read_text(form, text).unwrap_err())
    }

    fn captioned(
        name: &str,
        split: Option<Split>,
        class: Option<&str>,
        sentences: &[&str],
    ) -> Captioned {
        Captioned {
            name: name.to_owned(),
            split,
            class: class.map(str::to_owned),
            sentences: sentences.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn karpathys_json() {
        let json = r#"{"dataset": "coco", "images": [
            {"filepath": "val2014", "filename": "COCO_val2014_000000391895.jpg", "cocoid": 391895, "imgid": 0,
             "split": "restval", "sentids": [770337], "sentences":
             [{"tokens": ["a", "man"], "raw": "A man.", "imgid": 0, "sentid": 770337}]},
            {"filename": "2.jpg", "imgid": 1, "split": "test", "sentids": [], "sentences": []}]}"#;
        assert_eq!(
            read_text(Form::Karpathy, json).unwrap(),
            [
                captioned(
                    "val2014/COCO_val2014_000000391895.jpg",
                    Some(Split::Train),
                    None,
                    &["A man."]
                ),
                captioned("2.jpg", Some(Split::Test), None, &[]),
            ]
        );
        let message =
            refused(Form::Karpathy, r#"{"images": [{"filename": "1.jpg", "split": "train"}]}"#);
        assert!(message.contains("missing field `sentences`"), "{message}");
    }

    #[test]
    fn flickr30ks_tokens() {
        let text = "1000092795.jpg#0\tTwo young guys with shaggy hair .\n\
                    1000092795.jpg#1\tTwo young , White males .\n\n\
                    10002456.jpg#0\tSeveral men in hard hats .\n";
        assert_eq!(
            read_text(Form::Flickr30k, text).unwrap(),
            [
                captioned(
                    "1000092795.jpg",
                    None,
                    None,
                    &["Two young guys with shaggy hair .", "Two young , White males ."]
                ),
                captioned("10002456.jpg", None, None, &["Several men in hard hats ."]),
            ]
        );
        let message = refused(Form::Flickr30k, "1.jpg#0\ta dog\n2.jpg a cat\n");
        assert!(message.contains("line 2 is not"), "{message}");
    }

    #[test]
    fn cocos_captions() {
        let json = r#"{"info": {}, "licenses": [], "type": "captions",
            "images": [{"id": 7, "file_name": "7.jpg", "license": 4}, {"id": 8, "file_name": "8.jpg"}],
            "annotations": [{"image_id": 8, "id": 1, "caption": "A cat.\n"}, {"image_id": 8, "id": 2, "caption": "A pet."}]}"#;
        assert_eq!(
            read_text(Form::Coco, json).unwrap(),
            [
                captioned("7.jpg", None, None, &[]),
                captioned("8.jpg", None, None, &["A cat.", "A pet."])
            ]
        );
        let orphan = json.replace("\"image_id\": 8, \"id\": 2", "\"image_id\": 9, \"id\": 2");
        let message = refused(Form::Coco, &orphan);
        assert!(message.contains("the image 9, which is not listed"), "{message}");
    }

    #[test]
    fn the_real_captions_of_coco() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../shared/data/coco_captions_val2017.json");
        if !file.exists() {
            println!("skipped: no ../shared");
            return;
        }
        let all = read(Form::Coco, &file).unwrap();
        assert_eq!(all.len(), 5000);
        assert_eq!(all.iter().map(|it| it.sentences.len()).sum::<usize>(), 25_014);
        assert!(all.iter().all(|it| 5 <= it.sentences.len()));
    }

    #[test]
    fn cuhk_pedes_persons_are_classes() {
        let json = r#"[{"split": "train", "captions": ["A woman in white.", "She carries a bag."],
            "file_path": "CUHK01/0363004.png", "processed_tokens": [["a"], ["she"]], "id": 1},
            {"captions": ["A man."], "file_path": "Market/2.png", "id": 1}]"#;
        assert_eq!(
            read_text(Form::CuhkPedes, json).unwrap(),
            [
                captioned(
                    "CUHK01/0363004.png",
                    Some(Split::Train),
                    Some("1"),
                    &["A woman in white.", "She carries a bag."]
                ),
                captioned("Market/2.png", None, Some("1"), &["A man."]),
            ]
        );
        let message = refused(Form::CuhkPedes, r#"[{"captions": [], "file_path": "1.png"}]"#);
        assert!(message.contains("missing field `id`"), "{message}");
    }

    #[test]
    fn peoples_own_tables() {
        let csv = "file,caption,split,class\n\
                   a.jpg,\"A dog, running.\",train,\n\
                   b.jpg,A cat.,val,tom\n\
                   a.jpg,A brown dog.,train,\n";
        let expected = [
            captioned("a.jpg", Some(Split::Train), None, &["A dog, running.", "A brown dog."]),
            captioned("b.jpg", Some(Split::Val), Some("tom"), &["A cat."]),
        ];
        assert_eq!(read_text(Form::Csv, csv).unwrap(), expected);
        let lines = r#"
            {"file": "a.jpg", "captions": ["A dog, running.", "A brown dog."], "split": "train"}
            {"file": "b.jpg", "caption": "A cat.", "split": "val", "class": "tom"}"#;
        assert_eq!(read_text(Form::JsonLines, lines).unwrap(), expected);
        assert_eq!(
            read_text(Form::Csv, "file,caption\na.jpg,A dog.\n").unwrap(),
            [captioned("a.jpg", None, None, &["A dog."])]
        );
        for (text, part) in [
            ("name,caption\na.jpg,A dog.\n", "unknown field `name`"),
            ("file,caption\na.jpg,\n", "line 2: a.jpg has no caption"),
            (
                "file,caption,split\na.jpg,A,train\na.jpg,B,val\n",
                "line 3: a.jpg is in 'val' and was in 'train'",
            ),
            ("file,caption\n", "captions no picture"),
        ] {
            let message = refused(Form::Csv, text);
            assert!(message.contains(part), "{message}");
        }
        let message =
            refused(Form::JsonLines, "{\"file\": \"a.jpg\", \"caption\": \"A\"}\n{\"file\"");
        assert!(message.contains("line 2"), "{message}");
    }
}
