//! The picture files below a folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Endings of files that are taken for pictures.
const ENDINGS: [&str; 12] =
    ["jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif"];

/// What a walk found.
#[derive(Default)]
pub struct Files {
    /// Pictures, by their path from the folder.
    pub pictures: BTreeSet<String>,
    /// Folders that could not be read, by their path from the folder: what is in them is not known.
    pub closed: Vec<String>,
    /// What cannot be taken, and why.
    pub left_out: Vec<(String, String)>,
}

impl Files {
    /// Walks a folder. Hidden things and links are passed by, as are folders of an excluded name.
    pub fn below(folder: &Path, exclude: &[String], stop: &dyn Fn() -> bool) -> Files {
        let mut files = Files::default();
        let mut open = vec![PathBuf::new()];
        while let Some(inside) = open.pop() {
            if stop() {
                break;
            }
            let entries = match std::fs::read_dir(folder.join(&inside)) {
                Ok(entries) => entries,
                Err(err) => {
                    files.closed(&inside, &err);
                    continue;
                }
            };
            for entry in entries {
                match entry.and_then(|it| it.file_type().map(|kind| (it.file_name(), kind))) {
                    Ok((name, _)) if name.as_encoded_bytes().starts_with(b".") => {}
                    Ok((name, kind)) if kind.is_dir() => {
                        if !exclude.iter().any(|it| name == it.as_str()) {
                            open.push(inside.join(name));
                        }
                    }
                    Ok((name, kind)) if kind.is_file() => files.take(&inside.join(name)),
                    Ok(_) => {}
                    Err(err) => files.closed(&inside, &err),
                }
            }
        }
        files
    }

    fn take(&mut self, path: &Path) {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if !ENDINGS.contains(&ending.as_str()) {
            return;
        }
        match path.to_str() {
            Some(path) => {
                self.pictures.insert(path.to_owned());
            }
            None => self.left_out.push((
                path.to_string_lossy().into_owned(),
                "its name is no UTF-8 (rename it)".to_owned(),
            )),
        }
    }

    fn closed(&mut self, folder: &Path, err: &std::io::Error) {
        let name = folder.to_string_lossy().into_owned();
        self.left_out.push((format!("{name}/"), err.to_string()));
        self.closed.push(name);
    }
}
