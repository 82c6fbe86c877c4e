//! What a person sees while waiting.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on stderr with rate and time left; silent where stderr is no terminal.
pub fn bar(total: usize, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:<22} {bar:30} {pos}/{len} {per_sec:>12} ETA {eta:<6} {prefix}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_message(what)
}
