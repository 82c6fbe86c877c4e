//! Everything a user can type, in one place.

mod functions;
mod content;
mod table;
mod models;

use crate::error::Result;
use crate::sqlite::{Db, Flags};

/// Defines every SQL name on one connection.
pub fn register(db: &Db) -> Result<()> {
    use content::*;
    use functions::*;

    db.function("embed_text", 1..=2, Flags::Plain, embed_text)?;
    db.function("embed_image", 1..=2, Flags::Plain, embed_image)?;
    db.function("embed_file", 1..=2, Flags::DirectOnly, embed_file)?;
    db.function("embed_distance", 2..=3, Flags::Pure, embed_distance)?;
    db.function("embed_add", 2..=3, Flags::Pure, embed_add)?;
    db.function("embed_to_json", 1..=1, Flags::Pure, embed_to_json)?;
    db.function("embed_from_json", 1..=2, Flags::Pure, embed_from_json)?;

    db.function("dualpath_version", 0..=0, Flags::Pure, dualpath_version)?;
    db.function("dualpath_debug", 0..=0, Flags::DirectOnly, dualpath_debug)?;
    db.function("dualpath_runtime", 0..=1, Flags::DirectOnly, dualpath_runtime)?;
    db.function("dualpath_device", 0..=1, Flags::DirectOnly, dualpath_device)?;
    db.function("dualpath_threads", 0..=1, Flags::DirectOnly, dualpath_threads)?;
    db.function("dualpath_check", 1..=1, Flags::DirectOnly, dualpath_check)?;
    db.function("dualpath_status", 1..=1, Flags::DirectOnly, dualpath_status)?;

    db.function("dualpath_sync", 1..=2, Flags::DirectOnly, dualpath_sync)?;
    db.function("dualpath_triggers", 1..=1, Flags::DirectOnly, dualpath_triggers)?;
    db.function("dualpath_progress", 0..=0, Flags::DirectOnly, dualpath_progress)?;

    db.table::<models::Models>("dualpath_models")?;
    db.table::<table::Dualpath>("dualpath")
}
