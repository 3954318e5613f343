//! How long work is shown to whoever waits for it.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Is told how work that takes seconds is getting on. One task is under way at a time.
pub trait Progress {
    /// A task begins; `total` is how many bytes it is about, if that is known.
    fn begin(&self, task: &str, total: Option<u64>);
    /// `done` bytes of the task are done.
    fn advance(&self, done: u64);
    /// The task is over, successfully or not.
    fn end(&self);
    /// Something the user should know that is no error.
    fn note(&self, message: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _task: &str, _total: Option<u64>) {}
    fn advance(&self, _done: u64) {}
    fn end(&self) {}
    fn note(&self, _message: &str) {}
}

/// Bars on standard error where that is a terminal, one line for each task where it is not.
#[derive(Debug, Default)]
pub struct TerminalProgress {
    bar: Mutex<Option<ProgressBar>>,
}

impl TerminalProgress {
    /// Ready to show a first task.
    pub fn new() -> Self {
        Self::default()
    }

    fn with_bar(&self, action: impl FnOnce(&mut Option<ProgressBar>)) {
        // A bar is in no state that a panic elsewhere could spoil.
        action(&mut self.bar.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants below; an unreadable one would only cost the looks.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Progress for TerminalProgress {
    fn begin(&self, task: &str, total: Option<u64>) {
        if !stderr().is_terminal() {
            eprintln!("{task}");
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(
                "{msg:26} [{bar:30}] {bytes:>10} of {total_bytes} {binary_bytes_per_sec:>12}",
            )),
            None => ProgressBar::new_spinner().with_style(style("{msg:26} {spinner} {elapsed}")),
        };
        bar.set_message(task.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        self.with_bar(|slot| {
            if let Some(previous) = slot.replace(bar) {
                previous.finish_and_clear();
            }
        });
    }

    fn advance(&self, done: u64) {
        self.with_bar(|slot| {
            if let Some(bar) = slot
                && bar.length().is_some()
            {
                bar.set_position(done);
            }
        });
    }

    fn end(&self) {
        self.with_bar(|slot| {
            if let Some(bar) = slot.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn note(&self, message: &str) {
        self.with_bar(|slot| match slot {
            Some(bar) => bar.suspend(|| eprintln!("{message}")),
            None => eprintln!("{message}"),
        });
    }
}
