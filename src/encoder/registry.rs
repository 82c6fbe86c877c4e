//! The models of this process, by name: loaded once, seen by all its connections.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::Encoder;
use crate::error::{Error, Result};
use crate::model::Model;

/// What a table without `model` uses: the encoder pair inside the library.
pub const DEFAULT: &str = "default";

type Models = BTreeMap<String, Arc<Encoder>>;

static MODELS: LazyLock<Mutex<Models>> = LazyLock::new(Mutex::default);

fn models() -> Result<MutexGuard<'static, Models>> {
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    if !models.contains_key(DEFAULT) {
        let built_in = Encoder::new(DEFAULT, None, Model::built_in()?);
        models.insert(DEFAULT.to_owned(), Arc::new(built_in));
    }
    Ok(models)
}

/// The named model, or the built-in one; opens no file.
pub fn find(name: Option<&str>) -> Result<Arc<Encoder>> {
    let models = models()?;
    let name = name.unwrap_or(DEFAULT);
    models.get(name).cloned().ok_or_else(|| Error::NoModel {
        name: name.to_owned(),
        loaded: models.keys().cloned().collect::<Vec<_>>().join(", "),
    })
}

/// Reads a model folder under a name of one's own; the same folder under the same name is no error.
pub fn load(name: &str, folder: &Path) -> Result<Arc<Encoder>> {
    if name.is_empty() {
        return Err(Error::Usage(
            "the model's name is empty (choose one, such as 'photos')".to_owned(),
        ));
    }
    let model = Model::from_folder(folder)?;
    let mut models = models()?;
    if let Some(known) = models.get(name) {
        if known.digest() == model.digest {
            return Ok(known.clone());
        }
        return Err(Error::Usage(format!(
            "a model named '{name}' is loaded already, with digest {} instead of {} (choose another name, or delete it first)",
            known.digest(),
            model.digest
        )));
    }
    let mut encoder = Encoder::new(name, Some(folder), model);
    encoder.open_both()?;
    let encoder = Arc::new(encoder);
    models.insert(name.to_owned(), encoder.clone());
    Ok(encoder)
}

/// Forgets a model; tables that hold it keep it until they are closed.
pub fn drop_model(name: &str) -> Result<()> {
    if name == DEFAULT {
        return Err(Error::Usage(format!("'{DEFAULT}' is built in (it cannot be deleted)")));
    }
    let removed = models()?.remove(name);
    match removed {
        Some(_) => Ok(()),
        None => find(Some(name)).map(|_| ()),
    }
}

/// All of them, by name.
pub fn list() -> Result<Vec<Arc<Encoder>>> {
    Ok(models()?.values().cloned().collect())
}
