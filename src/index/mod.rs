//! Search over blocks of vectors, exact or likely; vectors in, neighbours out, no SQLite.
//!
//! A vector is kept in two planes: `high`, every number rounded to its upper sixteen bits (a
//! bfloat16), and `low`, what is missing to the float. The scan reads only the high plane, half
//! of the bytes; the rounding bounds how far off its distances are, and only rows that the bound
//! leaves in question are looked at in full. The answer is that of a scan over whole floats. Other
//! storages have one plane of fewer bytes, and other metrics than the cosine other keys (`measure.rs`).

pub mod plane;
mod metric;
mod form;
mod measure;
mod nearest;
mod aspect;
mod crew;
mod probe;
mod certain;
mod effort;
mod lie;
mod leaning;
pub mod code;
pub mod centres;
pub mod cluster;
mod rotation;

pub use aspect::{List, Lists};
pub use certain::{certain, certain_of_each};
pub use crew::{Crew, MOST_THREADS, Started, bulk_threads, crewed, threads, use_threads};
pub use effort::{Aim, Effort, LEARNED_OF, LEVELS, Learned};
pub use form::{Form, Storage};
pub use leaning::leaning;
pub use measure::Measure;
pub use metric::Metric;
pub use nearest::{Found, Hit, Planes, Rows, Show, ShowRow, Source, Want, nearest};
pub use probe::{Listed, likely};
pub use rotation::Random;
