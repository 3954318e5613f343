//! What is shown while a comparison is under way: on standard error, so that results can be redirected.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// Shows how a comparison is getting on: a line that moves where standard error is a terminal, a line
/// for each boot where it is not.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    started: Instant,
}

impl Progress {
    /// For a comparison that takes about so long.
    pub fn new(limit: Duration) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let template = "{elapsed:>4} [{bar:24.cyan/dim}] {prefix:.bold} {msg}";
            // The template is constant; an unreadable one would only cost the looks.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸ ");
            let bar = ProgressBar::new(limit.as_millis().try_into().unwrap_or(u64::MAX));
            bar.set_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet: false, started: Instant::now() }
    }

    /// Shows nothing.
    pub fn silent() -> Self {
        Self { bar: None, quiet: true, started: Instant::now() }
    }

    /// A guest is started.
    pub(crate) fn boot(&self, round: u32, column: &str, task: &str) {
        self.advance();
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("round {round} {column}"));
            bar.set_message(format!("{task}: booting"));
        }
    }

    /// Something was measured.
    pub(crate) fn measured(&self, what: &str, value: &str) {
        self.advance();
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what} {value}"));
        }
    }

    /// A guest has ended.
    pub(crate) fn ended(&self, round: u32, column: &str, task: &str, seconds: f64) {
        if self.bar.is_none() && !self.quiet {
            eprintln!("round {round}, {column}, {task}: {seconds:.1} s");
        }
    }

    /// Something that should be known.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
    }

    /// All is done.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
        }
    }
}
