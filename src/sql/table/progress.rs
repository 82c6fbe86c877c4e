//! What the syncs of this process are doing, for `dualpath_progress()`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Syncs that are remembered, besides any that run.
const REMEMBERED: usize = 16;

static SYNCS: Mutex<VecDeque<Arc<Mutex<Report>>>> = Mutex::new(VecDeque::new());

/// One sync; it counts as running until its end, or until this is dropped.
pub struct Progress(Arc<Mutex<Report>>);

/// How far a sync has come.
#[derive(Debug, Clone)]
pub struct Report {
    /// The database's file; empty for one in memory.
    pub database: String,
    /// The index, with its schema.
    pub table: String,
    /// Rows of the content table.
    pub of: i64,
    /// Those that were looked at.
    pub rows: i64,
    /// Pictures and sentences that are as they were.
    pub same: i64,
    /// Those that were encoded.
    pub encoded: i64,
    /// Those that cannot be, new or as before.
    pub skipped: i64,
    /// Those that are gone.
    pub forgotten: i64,
    /// Whether the last row was reached.
    pub complete: bool,
    running: bool,
    began: Instant,
    took: Duration,
}

impl Progress {
    /// A sync begins.
    pub fn begin(database: String, table: String, of: i64) -> Progress {
        let report = Arc::new(Mutex::new(Report {
            database,
            table,
            of,
            rows: 0,
            same: 0,
            encoded: 0,
            skipped: 0,
            forgotten: 0,
            complete: false,
            running: true,
            began: Instant::now(),
            took: Duration::ZERO,
        }));
        let mut syncs = SYNCS.lock().unwrap_or_else(PoisonError::into_inner);
        syncs.push_front(report.clone());
        let runs =
            |it: &Arc<Mutex<Report>>| it.lock().unwrap_or_else(PoisonError::into_inner).running;
        if REMEMBERED < syncs.len()
            && let Some(oldest) = syncs.iter().rposition(|it| !runs(it))
        {
            syncs.remove(oldest);
        }
        Progress(report)
    }

    /// Counts something.
    pub fn count(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The sync is over; whether it reached the last row.
    pub fn end(&self, complete: bool) {
        self.count(|it| {
            it.complete = complete;
            it.stop();
        });
    }

    /// As it stands now.
    pub fn report(&self) -> Report {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.count(Report::stop);
    }
}

impl Report {
    fn stop(&mut self) {
        if std::mem::take(&mut self.running) {
            self.took = self.began.elapsed();
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let took = if self.running { self.began.elapsed() } else { self.took };
        serde_json::json!({
            "database": self.database,
            "table": self.table,
            "running": self.running,
            "complete": self.complete,
            "of": self.of,
            "rows": self.rows,
            "same": self.same,
            "encoded": self.encoded,
            "skipped": self.skipped,
            "forgotten": self.forgotten,
            "seconds": (took.as_secs_f64() * 10.0).round() / 10.0,
        })
    }
}

/// The last syncs of this process, the latest first.
pub fn reports() -> Vec<Report> {
    let syncs = SYNCS.lock().unwrap_or_else(PoisonError::into_inner);
    syncs.iter().map(|it| it.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_runs_is_not_forgotten_for_later_ones() {
        let begin = |table: String| Progress::begin("progress.db".to_owned(), table, 1);
        let long = begin("long".to_owned());
        for at in 0..2 * REMEMBERED {
            begin(format!("short {at}")).end(true);
        }
        let tables: Vec<String> = {
            let syncs = SYNCS.lock().unwrap();
            syncs.iter().map(|it| it.lock().unwrap().table.clone()).collect()
        };
        assert!(tables.contains(&"long".to_owned()), "{tables:?}");
        assert!(!tables.contains(&"short 0".to_owned()), "{tables:?}");
        long.end(true);
    }
}
