//! Where pictures lie: names to bytes in folders and tar files.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The file, where the picture's bytes start in it, and how many there are.
type Place = (PathBuf, u64, u64);

/// Pictures by their path below the source, and by their bare name.
#[derive(Default)]
pub struct Places {
    by_path: HashMap<String, Place>,
    /// Paths that end in the name.
    by_name: HashMap<String, Vec<String>>,
}

impl Places {
    /// Takes a folder, with those inside it, or a tar file in.
    pub fn add(&mut self, source: &Path) -> Result<()> {
        let reading = || format!("reading the pictures of {}", source.display());
        if source.is_dir() {
            return self.add_folder(source, source).with_context(reading);
        }
        let file = File::open(source).with_context(reading)?;
        for entry in tar::Archive::new(file).entries().with_context(reading)? {
            let entry = entry.with_context(reading)?;
            let path = entry.path().with_context(reading)?;
            if entry.header().entry_type().is_file() {
                let place = (std::path::absolute(source)?, entry.raw_file_position(), entry.size());
                self.insert(&path, place);
            }
        }
        Ok(())
    }

    fn add_folder(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                self.add_folder(root, &path)?;
            } else if path.is_file() {
                let place = (std::path::absolute(&path)?, 0, path.metadata()?.len());
                self.insert(path.strip_prefix(root).unwrap_or(&path), place);
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &Path, place: Place) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = path.to_string_lossy().into_owned();
        let paths = self.by_name.entry(name).or_default();
        if !paths.contains(&path) {
            paths.push(path.clone());
        }
        self.by_path.insert(path, place);
    }

    /// The picture of that path, or the only one whose file name is the path's.
    pub fn find(&self, path: &str) -> Result<Option<Place>> {
        if let Some(place) = self.by_path.get(path) {
            return Ok(Some(place.clone()));
        }
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
        // `train2014/7.jpg` is `7.jpg` in a folder of its own, but never `val2014/7.jpg`.
        let ends = |it: &&String| path.ends_with(it.as_str()) || it.ends_with(path);
        let paths: Vec<&String> =
            self.by_name.get(name.as_ref()).into_iter().flatten().filter(ends).collect();
        match paths[..] {
            [] => Ok(None),
            [one] => Ok(self.by_path.get(one).cloned()),
            [one, other, ..] => {
                bail!("'{path}' may be {one} or {other} (give the path below data.images)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_found_by_path_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cam_a/1.png", "cam_b/1.png", "cam_b/2.png", "3.png"] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, name).unwrap();
        }
        let mut places = Places::default();
        places.add(folder.path()).unwrap();
        assert_eq!(places.find("cam_a/1.png").unwrap().unwrap().2, 11);
        assert!(places.find("2.png").unwrap().unwrap().0.ends_with("cam_b/2.png"));
        assert!(places.find("imgs/3.png").unwrap().is_some());
        assert!(places.find("cam_c/2.png").unwrap().is_none());
        assert!(places.find("4.png").unwrap().is_none());
        let message = places.find("1.png").unwrap_err().to_string();
        assert!(message.contains("cam_a/1.png") && message.contains("cam_b/1.png"), "{message}");
        assert!(places.add(&folder.path().join("none")).is_err());
    }
}
