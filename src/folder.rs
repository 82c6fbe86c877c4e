//! Files below one folder that the user has named, and no others.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::image::MOST_FILE_BYTES;

/// A file changed so lately may change again within the same tick of its clock.
const STILL_CHANGING: Duration = Duration::from_secs(2);

/// The folder.
#[derive(Debug)]
pub struct Folder {
    /// As it was named.
    named: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
}

/// A regular file, open.
pub struct Found {
    file: File,
    path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970; none where a later change might leave it the same.
    pub modified: Option<i64>,
}

impl Folder {
    /// # Errors
    /// A path that is not absolute, or no folder.
    pub fn open(path: &Path) -> Result<Folder> {
        let refused = |reason: String| Error::File { path: path.to_owned(), reason };
        if !path.is_absolute() {
            return Err(refused("the folder's path does not start at the root".to_owned()));
        }
        let real = path.canonicalize().map_err(|err| refused(err.to_string()))?;
        if !real.is_dir() {
            return Err(refused("it is no folder".to_owned()));
        }
        Ok(Folder { named: path.to_owned(), real })
    }

    /// Opens a file of the folder, or of one inside it, by its path from there or from the root.
    ///
    /// # Errors
    /// A path or a symbolic link that leads out of the folder, whatever lies there; anything but a
    /// regular file.
    pub fn find(&self, path: &str) -> Result<Found> {
        let given = Path::new(path);
        let refused = |reason: String| Error::File { path: given.to_owned(), reason };
        let outside = || refused(format!("it lies outside the folder {}", self.named.display()));
        if path.is_empty() {
            return Err(refused("the path is empty".to_owned()));
        }
        if given.components().any(|it| it == Component::ParentDir) {
            return Err(refused("the path holds '..' (give it without)".to_owned()));
        }
        // Before the file system is asked, so that no answer tells what exists elsewhere.
        let below = match given.is_absolute() {
            true => given.strip_prefix(&self.named).or_else(|_| given.strip_prefix(&self.real)),
            false => Ok(given),
        };
        let whole = self.real.join(below.map_err(|_| outside())?);
        let failed = |err: std::io::Error| refused(err.to_string());
        let real = whole.canonicalize().map_err(failed)?;
        if !real.starts_with(&self.real) {
            return Err(outside());
        }
        // A fifo or a device is not even opened.
        regular(&real.symlink_metadata().map_err(failed)?).map_err(&refused)?;
        let file = opened(&real).map_err(failed)?;
        // What was opened may be something else than what was looked at.
        let about = file.metadata().map_err(failed)?;
        regular(&about).map_err(&refused)?;
        if real_path(&file).is_some_and(|it| !it.starts_with(&self.real)) {
            return Err(outside());
        }
        if MOST_FILE_BYTES < about.len() {
            return Err(refused(too_large(about.len())));
        }
        let modified = about.modified().ok().and_then(settled);
        Ok(Found { file, path: given.to_owned(), size: about.len(), modified })
    }
}

impl Found {
    /// The bytes.
    pub fn read(self) -> Result<Vec<u8>> {
        let refused = |reason: String| Error::File { path: self.path.clone(), reason };
        let mut bytes = Vec::new();
        // It may have grown meanwhile.
        let mut file = (&self.file).take(MOST_FILE_BYTES + 1);
        file.read_to_end(&mut bytes).map_err(|err| refused(err.to_string()))?;
        match bytes.len() as u64 {
            length if MOST_FILE_BYTES < length => Err(refused(too_large(length))),
            _ => Ok(bytes),
        }
    }
}

fn regular(about: &Metadata) -> std::result::Result<(), String> {
    match about.is_file() {
        true => Ok(()),
        false if about.is_dir() => Err("it is a folder".to_owned()),
        false => Err("it is no regular file".to_owned()),
    }
}

fn too_large(bytes: u64) -> String {
    format!("it has {bytes} bytes (the limit is {MOST_FILE_BYTES})")
}

fn settled(modified: SystemTime) -> Option<i64> {
    let age = SystemTime::now().duration_since(modified).ok()?;
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    if age < STILL_CHANGING { None } else { i64::try_from(since.as_nanos()).ok() }
}

/// Neither through a link nor waiting for somebody to write.
fn opened(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY,
    );
    options.open(path)
}

/// Where an open file really lies, on systems that can say.
fn real_path(file: &File) -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        let number = std::os::fd::AsRawFd::as_raw_fd(file);
        std::fs::read_link(format!("/proc/self/fd/{number}")).ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_leads_out_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("in"), place.path().join("out"));
        for folder in [&inside, &outside, &inside.join("deep")] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("a.jpg"), b"bytes").unwrap();
        }
        symlink(&outside, inside.join("door")).unwrap();
        symlink(outside.join("a.jpg"), inside.join("window.jpg")).unwrap();
        symlink("loop", inside.join("loop")).unwrap();
        symlink("deep/a.jpg", inside.join("short.jpg")).unwrap();
        let folder = Folder::open(&inside).unwrap();
        let absolute = inside.join("a.jpg").display().to_string();
        for path in ["a.jpg", "deep/a.jpg", "./deep//a.jpg", "short.jpg", &absolute] {
            assert_eq!(folder.find(path).unwrap().read().unwrap(), b"bytes", "{path}");
        }
        let nowhere = outside.join("missing.jpg").display().to_string();
        for (path, words) in [
            ("../out/a.jpg", "holds '..'"),
            ("deep/../a.jpg", "holds '..'"),
            ("/etc/passwd", "outside the folder"),
            (nowhere.as_str(), "outside the folder"),
            ("door/a.jpg", "outside the folder"),
            ("window.jpg", "outside the folder"),
            ("deep", "it is a folder"),
            ("", "is empty"),
            ("b.jpg", "No such file"),
            ("loop", "symbolic links"),
            ("a\0.jpg", "cannot read"),
        ] {
            let refused = folder.find(path).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains(words), "{path}: {refused}");
        }
        assert!(Folder::open(Path::new("in")).is_err());
        assert!(Folder::open(&inside.join("a.jpg")).is_err());
    }
}
