//! dualpath: search your pictures with sentences, inside SQLite.

pub mod model;
pub mod text;
pub mod image;

pub mod embedding;
pub mod error;
