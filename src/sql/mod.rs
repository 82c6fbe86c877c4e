//! Everything a user can type, in one place.

use crate::error::Result;
use crate::sqlite::{Context, Db, Flags, Output, Value};

/// Defines every SQL name on one connection.
pub fn register(db: &Db) -> Result<()> {
    db.function("dualpath_version", 0..=0, Flags::Pure, dualpath_version)
}

/// `dualpath_version()`: the extension's version, such as `0.1.0`.
fn dualpath_version(_: &Context, _: &[Value<'_>]) -> Result<Output> {
    Ok(env!("CARGO_PKG_VERSION").into())
}
