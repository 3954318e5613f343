//! What our monitor counted while a guest worked.

use serde::Deserialize;
use std::path::Path;

/// What `ambos run --stats FILE` writes, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Statistics {
    windows: Vec<Window>,
}

/// What happened between two marks of the guest.
#[derive(Debug, Deserialize)]
struct Window {
    name: String,
    intercepts: Vec<Line>,
}

#[derive(Debug, Deserialize)]
struct Line {
    count: u64,
}

/// Interceptions in all windows of a name, each; nothing if nothing was counted.
pub(super) fn of_windows(path: &Path, name: &str) -> Vec<u64> {
    let statistics = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Statistics>(&bytes).ok());
    let windows = statistics.map_or_else(Vec::new, |statistics| statistics.windows);
    let of_name = windows.iter().filter(|window| window.name == name);
    of_name.map(|window| window.intercepts.iter().map(|line| line.count).sum()).collect()
}
