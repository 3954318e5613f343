//! Notices on the console that a Linux kernel has panicked.
//!
//! A kernel that was told to (`panic=-1`) restarts the machine after a panic, with nothing to tell
//! that from a restart that was meant. The difference is what it printed last.

const PANIC: &str = "Kernel panic - not syncing: ";
/// What an orderly restart or power-off prints on its way, after any panic of earlier times that
/// someone had a look at.
const ORDERLY: &str = "reboot: ";
/// Longest line that is looked at, in bytes.
const LINE_LIMIT: usize = 512;

/// Reads along what the console prints.
#[derive(Debug, Default)]
pub(super) struct PanicWatch {
    line: Vec<u8>,
    message: Option<String>,
}

impl PanicWatch {
    /// Takes what the console printed next.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                self.end_line();
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
        }
    }

    /// Why the kernel panicked, if that is the last thing it did.
    pub(super) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        let text = without_time(&line);
        if let Some(reason) = text.strip_prefix(PANIC) {
            self.message = Some(reason.trim().chars().filter(|c| !c.is_control()).collect());
        } else if text.starts_with(ORDERLY) {
            self.message = None;
        }
        self.line.clear();
    }
}

/// A line of the kernel's log without the time in brackets that may begin it.
fn without_time(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, text)) if time.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(text: &str) -> Option<String> {
        let mut watch = PanicWatch::default();
        for byte in text.bytes() {
            watch.feed(&[byte]);
        }
        watch.message().map(str::to_owned)
    }

    #[test]
    fn a_panic_is_noticed_with_its_reason() {
        let text = "[    1.5] ok\r\n\
            [    2.000000] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n\
            [    2.000001] CPU: 0 PID: 1 Comm: swapper/0\r\n";
        assert_eq!(watch(text).as_deref(), Some("VFS: Unable to mount root fs"));
        let text = "Kernel panic - not syncing: no time\n";
        assert_eq!(watch(text).as_deref(), Some("no time"));
    }

    #[test]
    fn other_lines_are_not_taken_for_a_panic() {
        assert_eq!(watch("# grep 'Kernel panic - not syncing: x' log\r\n"), None);
        assert_eq!(watch("[info] Kernel panic - not syncing: x\r\n"), None);
        assert_eq!(watch("[ 1.0] Kernel panic - not syncing: x"), None, "not a whole line");
        let looked_at =
            "[ 1.0] Kernel panic - not syncing: old\r\n[ 9.0] reboot: Restarting system\r\n";
        assert_eq!(watch(looked_at), None);
    }

    #[test]
    fn endless_lines_are_bounded() {
        let mut watch = PanicWatch::default();
        watch.feed(&vec![b'x'; 1 << 20]);
        assert!(watch.line.len() <= LINE_LIMIT);
        watch.feed(b"\nKernel panic - not syncing: late\n");
        assert_eq!(watch.message(), Some("late"));
    }
}
