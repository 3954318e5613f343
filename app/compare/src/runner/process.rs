//! A monitor as a process of its own: what it prints, with the times at which it does, and its end.
//!
//! A process of its own keeps the comparison apart from whatever happens to a monitor, makes monitors
//! of any make alike, and lets the host's kernel say what each costs.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked whether the user has asked for the end.
const POLL: Duration = Duration::from_millis(50);
/// How long a process that was asked to end may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most of the error output that is kept.
const ERROR_LIMIT: usize = 64 << 10;

/// Something that a process printed.
pub(crate) struct Chunk {
    /// When it was read.
    pub(crate) at: Instant,
    pub(crate) bytes: Vec<u8>,
}

/// What comes next of a process.
pub(crate) enum Next {
    Chunk(Chunk),
    /// It prints no more.
    End,
    /// The time is over.
    Deadline,
    /// The user has asked for the end.
    Interrupted,
}

/// A running process. It does not outlive this.
pub(crate) struct Process {
    child: Child,
    chunks: Receiver<Chunk>,
    errors: Option<JoinHandle<String>>,
    /// When it was started.
    pub(crate) started: Instant,
}

/// A process that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) errors: String,
    /// From its start to its end.
    pub(crate) seconds: f64,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> std::io::Result<Self> {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the comparison, which ends its processes itself.
            .process_group(0)
            .spawn()?;
        let (sender, chunks) = sync_channel(1024);
        if let Some(mut output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut buffer = [0; 1 << 14];
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    let chunk = Chunk { at: Instant::now(), bytes: buffer[..length].to_vec() };
                    if sender.send(chunk).is_err() {
                        break;
                    }
                }
            });
        }
        let errors = child.stderr.take().map(|mut errors| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let mut buffer = [0; 1 << 12];
                while let Ok(length @ 1..) = errors.read(&mut buffer) {
                    text.extend_from_slice(&buffer[..length]);
                    text.drain(..text.len().saturating_sub(ERROR_LIMIT));
                }
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Ok(Self { child, chunks, errors, started })
    }

    /// Waits for what comes next.
    pub(crate) fn next(&self, deadline: Instant, interrupt: &AtomicBool) -> Next {
        loop {
            if interrupt.load(Ordering::Relaxed) {
                return Next::Interrupted;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left.min(POLL)) {
                Ok(chunk) => return Next::Chunk(chunk),
                Err(RecvTimeoutError::Disconnected) => return Next::End,
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Next::Deadline,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// The processor time it has used so far.
    pub(crate) fn processor_seconds(&self) -> f64 {
        processor_seconds(self.child.id())
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits for its end; it is killed if that does not come soon.
    pub(crate) fn finish(mut self) -> std::io::Result<Ended> {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            // What it still prints must not keep it from ending.
            while self.chunks.try_recv().is_ok() {}
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    self.child.kill()?;
                    break self.child.wait()?;
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let seconds = self.started.elapsed().as_secs_f64();
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Ok(Ended { status, errors, seconds })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time that a process has used so far, in seconds, to the hundredth; zero if there is no such
/// process.
pub fn processor_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.ok().and_then(|stat| busy_seconds(&stat)).unwrap_or(0.0)
}

/// User and system time in the text of `/proc/PID/stat`, whose ticks are hundredths on x86.
fn busy_seconds(stat: &str) -> Option<f64> {
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start(command).unwrap()
    }

    fn read(process: &Process) -> String {
        let never = AtomicBool::new(false);
        let mut text = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while let Next::Chunk(chunk) = process.next(deadline, &never) {
            text.extend(chunk.bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn output_errors_and_status_are_kept() {
        let process = shell("echo out; echo bad >&2; exit 3");
        assert_eq!(read(&process), "out\n");
        let ended = process.finish().unwrap();
        assert_eq!((ended.status.code(), ended.errors.as_str()), (Some(3), "bad\n"));
        assert!(ended.seconds > 0.0);
    }

    #[test]
    fn a_process_that_takes_too_long_is_noticed_and_ended() {
        let process = shell("exec sleep 1000");
        let never = AtomicBool::new(false);
        assert!(matches!(process.next(Instant::now(), &never), Next::Deadline));
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(matches!(process.next(deadline, &AtomicBool::new(true)), Next::Interrupted));
        process.terminate();
        assert!(!process.finish().unwrap().status.success());
    }

    #[test]
    fn processor_time_is_read() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(busy_seconds(stat), Some(3.0));
        assert_eq!(busy_seconds("nonsense"), None);
    }
}
