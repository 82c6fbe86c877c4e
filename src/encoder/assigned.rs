//! Which provider really ran the nodes of a graph, out of ONNX Runtime's own record of a run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ort::session::Session;
use serde::Deserialize;

/// Nodes by the provider that ran them.
pub type Assigned = BTreeMap<String, usize>;

static RECORDS: AtomicU32 = AtomicU32::new(0);

/// Where the record of one more session begins its name.
pub fn record() -> PathBuf {
    let number = RECORDS.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("dualpath-{}-{number}", std::process::id()))
}

/// Ends the record of a session and reads it; the file is gone then.
pub fn assigned(session: &mut Session) -> std::result::Result<Assigned, String> {
    let file = session.end_profiling().map_err(|err| err.to_string())?;
    let record = std::fs::read(&file).map_err(|err| format!("{file}: {err}"));
    let _ = std::fs::remove_file(Path::new(&file));
    counted(&record?).map_err(|err| format!("{file}: {err}"))
}

fn counted(record: &[u8]) -> serde_json::Result<Assigned> {
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        name: String,
        #[serde(default)]
        args: Arguments,
    }
    #[derive(Deserialize, Default)]
    struct Arguments {
        provider: Option<String>,
    }
    let events: Vec<Event> = serde_json::from_slice(record)?;
    let mut assigned = Assigned::new();
    for event in events.iter().filter(|it| it.name.ends_with("_kernel_time")) {
        if let Some(provider) = &event.args.provider {
            *assigned.entry(provider.clone()).or_default() += 1;
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_by_what_ran_them() {
        let record = br#"[
            {"cat": "Session", "name": "model_run", "args": {}},
            {"cat": "Node", "name": "a_kernel_time", "args": {"provider": "CUDAExecutionProvider"}},
            {"cat": "Node", "name": "a_fence_after", "args": {"provider": "CUDAExecutionProvider"}},
            {"cat": "Node", "name": "b_kernel_time", "args": {"provider": "CUDAExecutionProvider"}},
            {"cat": "Node", "name": "c_kernel_time", "args": {"provider": "CPUExecutionProvider"}}
        ]"#;
        let expected = [("CPUExecutionProvider", 1), ("CUDAExecutionProvider", 2)];
        let expected = expected.map(|(name, nodes)| (name.to_owned(), nodes));
        assert_eq!(counted(record).unwrap(), Assigned::from(expected));
    }
}
