//! One connection of the host.

use sqlite3ext_sys::sqlite3;

/// One connection, open as long as the callback that it was handed to.
#[derive(Clone, Copy)]
pub struct Db {
    pub(super) raw: *mut sqlite3,
}

impl Db {
    pub(super) fn new(raw: *mut sqlite3) -> Db {
        Db { raw }
    }
}
