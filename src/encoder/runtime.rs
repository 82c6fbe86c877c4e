//! ONNX Runtime's shared library: where it is looked for, and the one environment of the process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;

use crate::error::{Error, Result};
use crate::sqlite;

/// Set to a library's path, it is looked at before the extension's own folder.
const VARIABLE: &str = "ORT_DYLIB_PATH";

#[cfg(target_os = "macos")]
const LIBRARY: &str = "libonnxruntime.dylib";
#[cfg(windows)]
const LIBRARY: &str = "onnxruntime.dll";
#[cfg(not(any(target_os = "macos", windows)))]
const LIBRARY: &str = "libonnxruntime.so";

struct Opened {
    environment: Environment,
    library: PathBuf,
}

/// A process has one environment, for ever: ONNX Runtime refuses a second.
static OPENED: OnceLock<Opened> = OnceLock::new();
/// The explicit setting; also taken while the library is opened, so that it is opened once.
static CHOSEN: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Names the library to open; too late once one is open.
pub fn use_library(path: &Path) -> Result<()> {
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = OPENED.get().filter(|it| it.library != path) {
        return Err(Error::Usage(format!(
            "ONNX Runtime is open already, from {} (choose the library before the first encoding)",
            opened.library.display()
        )));
    }
    if !path.is_absolute() || !path.is_file() {
        return Err(Error::Usage(format!(
            "'{}' is no file with an absolute path (name ONNX Runtime's shared library)",
            path.display()
        )));
    }
    *chosen = Some(path.to_owned());
    Ok(())
}

/// The open library's path and version, or why there is none so far.
pub fn state() -> std::result::Result<(PathBuf, String), String> {
    match OPENED.get() {
        Some(opened) => Ok((opened.library.clone(), ort::info().to_owned())),
        None => {
            let chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
            let found = candidates(chosen.as_deref()).into_iter().find(|it| it.is_file());
            Err(match found {
                Some(library) => format!("not opened yet; would open {}", library.display()),
                None => "not opened yet; no library found so far".to_owned(),
            })
        }
    }
}

/// The environment, opened at the first call that gets this far; a failure can be tried again.
///
/// # Errors
/// No library, with the places that were looked at.
pub fn environment() -> Result<&'static Environment> {
    let chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = OPENED.get() {
        return Ok(&opened.environment);
    }
    let candidates = candidates(chosen.as_deref());
    let mut reasons = Vec::new();
    for library in &candidates {
        // The plain name is left to the system's loader, everything else must lie there.
        if library.is_absolute() && !library.is_file() {
            continue;
        }
        match ort::init_from(library) {
            Ok(builder) => {
                let environment = builder
                    .with_name("dualpath")
                    .with_telemetry(false)
                    .build()
                    .map_err(|err| missing(err.to_string(), &candidates))?;
                let opened =
                    OPENED.get_or_init(|| Opened { environment, library: library.clone() });
                return Ok(&opened.environment);
            }
            Err(err) => reasons.push(with_causes(&err)),
        }
    }
    Err(missing(reasons.join("; "), &candidates))
}

fn missing(reason: String, candidates: &[PathBuf]) -> Error {
    let looked: Vec<String> = candidates.iter().map(|it| it.display().to_string()).collect();
    Error::Runtime { reason, looked: looked.join(", ") }
}

/// In the order of looking; paths are absolute, as `ort` would look beside the host program else.
fn candidates(chosen: Option<&Path>) -> Vec<PathBuf> {
    let variable = std::env::var_os(VARIABLE).filter(|it| !it.is_empty()).map(PathBuf::from);
    let mut all: Vec<PathBuf> = chosen.map(Path::to_owned).into_iter().collect();
    all.extend(variable.and_then(|it| std::path::absolute(it).ok()));
    if let Some(folder) = sqlite::library_folder() {
        let mut beside: Vec<PathBuf> = std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|it| it.path())
            .filter(|it| {
                it.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY))
            })
            .collect();
        // The newest version first; the plain name, if it is not there, for the error's sake.
        beside.sort_by(|a, b| b.cmp(a));
        if beside.is_empty() {
            beside.push(folder.join(LIBRARY));
        }
        all.extend(beside);
    }
    all.push(PathBuf::from(LIBRARY));
    all
}

/// `ort`'s own message hides what the loader said.
fn with_causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text.push_str(&format!(": {err}"));
        cause = err.source();
    }
    text
}
