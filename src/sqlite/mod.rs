//! The fence: everything that touches C, and nothing that knows what an embedding is.
//!
//! Above this folder there is no raw pointer. Every callback runs inside `catch_unwind`, every error
//! reaches SQLite with a code and a text of its own, every value arrives typed and checked.
//! `sqlite-loadable` registers the functions; its virtual tables, its error text and its panics end
//! the host process, so the rest stands here, over the same table of host functions.
//!
//! ```text
//! entry      one load: version checks, then the caller's list of names
//! linked     the same in a program that SQLite is linked into
//! database   Db: one connection          function   scalar functions
//! table      virtual tables, the trait   module     ... and its C side
//! plan       the planner's questions     value      Value in, Output out
//! statement  prepared statements         blob       blobs in place
//! api        the host's function table
//! ```
#![allow(unsafe_code)]

mod entry;
#[cfg(feature = "static")]
mod linked;
mod database;
mod function;
mod table;
mod module;
mod plan;
mod statement;
mod blob;
mod value;
mod library;
mod api;

pub use blob::Blob;
pub use database::{Db, quoted};
pub use entry::{LOADED, load};
pub use function::{Context, Flags};
pub use library::library_folder;
#[cfg(feature = "static")]
pub use linked::register;
pub use module::Argument;
pub use plan::{Constraint, Operator, Plan, Verdict};
pub use statement::Statement;
pub use table::{Change, Declaration, OnConflict, Table};
pub use value::{Output, Value};

pub use sqlite3ext_sys::{sqlite3, sqlite3_api_routines};
