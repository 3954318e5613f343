//! Where what the guest prints goes.
//!
//! The machine writes to [`Output`] from a thread of its own; the command line asks [`Console`] what
//! has been seen. Both share one state behind a lock, which is held only while a write is passed on.

use super::machine::{AfterReset, Handle};
use super::panic_watch::PanicWatch;
use ambos_guest::exec::{ExecFilter, Nonce, Phase, ShellFilter, WindowMark};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// The window from the making of the machine to the beginning of the command.
pub(super) const BOOT_WINDOW: &str = "boot";

/// Where to print.
pub(super) struct Sinks {
    /// The console of an interactive guest, or the output of a command.
    pub(super) output: Box<dyn Write + Send>,
    /// The kernel's log, apart from the output of a command.
    pub(super) log: Box<dyn Write + Send>,
    /// All that the guest prints, as it prints it.
    pub(super) transcript: Option<Box<dyn Write + Send>>,
}

/// What is taken out of the stream.
enum Filter {
    /// Nothing: the guest is not ours.
    None,
    Shell(ShellFilter),
    Exec(ExecFilter),
}

/// The console of one guest.
#[derive(Clone)]
pub(super) struct Console {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when `state.ready` becomes true.
    ready: Condvar,
    /// The machine, once it is there.
    handle: OnceLock<Arc<dyn Handle>>,
}

struct State {
    filter: Filter,
    panic: PanicWatch,
    sinks: Sinks,
    /// Whether the guest can take input.
    ready: bool,
    /// The last thing printed was not the end of a line.
    mid_line: bool,
    /// The first write that failed.
    broken: Option<io::Error>,
}

impl Console {
    /// The console of a guest whose initramfs, if it is ours, goes by `nonce`, and which runs a
    /// command if `exec` holds.
    pub(super) fn new(nonce: Option<&Nonce>, exec: bool, sinks: Sinks) -> Self {
        let filter = match nonce {
            None => Filter::None,
            Some(nonce) if exec => Filter::Exec(ExecFilter::new(nonce)),
            Some(nonce) => Filter::Shell(ShellFilter::new(nonce)),
        };
        let ready = !matches!(filter, Filter::Shell(_));
        let state = State {
            filter,
            panic: PanicWatch::default(),
            sinks,
            ready,
            mid_line: false,
            broken: None,
        };
        let shared =
            Shared { state: Mutex::new(state), ready: Condvar::new(), handle: OnceLock::new() };
        Self { shared: Arc::new(shared) }
    }

    /// What the machine writes to.
    pub(super) fn output(&self) -> Output {
        Output(self.clone())
    }

    /// Tells which machine to stop when the console can be written no more. Only the first counts.
    pub(super) fn attach(&self, handle: Arc<dyn Handle>) {
        let _ = self.shared.handle.set(handle);
    }

    /// Waits until the guest can take input that no one will type again.
    pub(super) fn wait_until_ready(&self) {
        let mut state = self.lock();
        while !state.ready {
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What to do when the guest restarts the machine: a panicked kernel would only panic again, and
    /// a command must not run twice.
    pub(super) fn after_reset(&self) -> AfterReset {
        let state = self.lock();
        match state.filter {
            Filter::Exec(_) => AfterReset::End,
            _ if state.panic.message().is_some() => AfterReset::End,
            _ => AfterReset::Boot,
        }
    }

    /// Writes what is still held back and returns what has been seen.
    pub(super) fn finish(&self) -> Seen {
        let mut state = self.lock();
        let state = &mut *state;
        if let Filter::Exec(filter) = &mut state.filter {
            let (mut output, mut log) = (Vec::new(), Vec::new());
            filter.finish(&mut output, &mut log);
            state.sinks.write(&[], &output, &log).unwrap_or_else(|error| {
                state.broken.get_or_insert(error);
            });
        }
        let (phase, log) = match &state.filter {
            Filter::Exec(filter) => (Some(filter.phase()), filter.last_log()),
            _ => (None, Vec::new()),
        };
        let panic = state.panic.message().map(str::to_owned);
        Seen { phase, log, panic, mid_line: state.mid_line, broken: state.broken.take() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen on a console in the end.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// How far the command came, if there is one.
    pub(super) phase: Option<Phase>,
    /// The last of the kernel's log, if there is a command.
    pub(super) log: Vec<u8>,
    /// Why the kernel panicked, if it did.
    pub(super) panic: Option<String>,
    /// The last line of output has no end.
    pub(super) mid_line: bool,
    /// Why not all could be written.
    pub(super) broken: Option<io::Error>,
}

impl State {
    /// Passes on what the guest prints and returns the marks of windows in it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<Vec<WindowMark>> {
        self.panic.feed(bytes);
        let (mut output, mut log, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        match &mut self.filter {
            Filter::None => output.extend_from_slice(bytes),
            Filter::Shell(filter) => {
                filter.feed(bytes, &mut output);
                self.ready = filter.is_ready();
            }
            Filter::Exec(filter) => {
                let booting = filter.phase() == Phase::Booting;
                filter.feed(bytes, &mut output, &mut log);
                if booting && filter.phase() != Phase::Booting {
                    marks.push(WindowMark::Close(BOOT_WINDOW.to_owned()));
                }
                marks.extend(filter.take_marks());
            }
        }
        self.sinks.write(bytes, &output, &log)?;
        if let Some(&last) = output.last() {
            self.mid_line = last != b'\n';
        }
        Ok(marks)
    }
}

impl Sinks {
    fn write(&mut self, all: &[u8], output: &[u8], log: &[u8]) -> io::Result<()> {
        if let Some(transcript) = &mut self.transcript {
            write_now(transcript, all)?;
        }
        write_now(&mut self.log, log)?;
        write_now(&mut self.output, output)
    }
}

fn write_now(sink: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    sink.write_all(bytes)?;
    sink.flush()
}

/// The writing end of a [`Console`].
pub(super) struct Output(Console);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = &self.0.shared;
        let mut state = self.0.lock();
        if state.broken.is_some() {
            return Ok(bytes.len());
        }
        match state.write(bytes) {
            Ok(marks) => {
                if state.ready {
                    shared.ready.notify_all();
                }
                drop(state);
                if let Some(handle) = shared.handle.get() {
                    marks.into_iter().for_each(|mark| handle.mark(mark));
                }
            }
            Err(error) => {
                // The guest cannot help it; the failure is reported when the machine has ended.
                state.broken = Some(error);
                drop(state);
                if let Some(handle) = shared.handle.get() {
                    handle.stop();
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A sink that can be looked into.
    #[derive(Clone, Default)]
    pub(in super::super) struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Memory {
        pub(in super::super) fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct StopCount(Mutex<u32>);

    impl Handle for StopCount {
        fn send(&self, _bytes: &[u8]) {}

        fn mark(&self, _mark: WindowMark) {}

        fn resize(&self, _rows: u16, _columns: u16) {}

        fn press_power_button(&self) {}
        fn screen(&self) -> Option<ambos_machine::Screen> {
            None
        }

        fn stop(&self) {
            *self.0.lock().unwrap() += 1;
        }
    }

    fn marker(nonce: &Nonce, text: &str) -> String {
        let parameter = nonce.kernel_parameter();
        let nonce = parameter.strip_prefix("ambos.nonce=").unwrap();
        format!("\x1b]ambos;{nonce};{text}\x07")
    }

    #[test]
    fn a_commands_output_is_apart_from_the_log() {
        let nonce = Nonce::random();
        let (output, log, transcript) = (Memory::default(), Memory::default(), Memory::default());
        let sinks = Sinks {
            output: Box::new(output.clone()),
            log: Box::new(log.clone()),
            transcript: Some(Box::new(transcript.clone())),
        };
        let console = Console::new(Some(&nonce), true, sinks);
        let text = format!(
            "boot\r\n{}result\n{}off\r\n",
            marker(&nonce, "begin"),
            marker(&nonce, "end=4")
        );
        for byte in text.bytes() {
            console.output().write_all(&[byte]).unwrap();
        }
        assert_eq!(output.text(), "result\n");
        assert_eq!(log.text(), "boot\r\noff\r\n");
        assert_eq!(transcript.text(), text);
        assert_eq!(console.after_reset(), AfterReset::End);
        let seen = console.finish();
        assert_eq!(seen.phase, Some(Phase::Ended(4)));
        assert_eq!(seen.log, b"boot\r\noff\r\n");
    }

    #[test]
    fn input_waits_for_the_shell() {
        let nonce = Nonce::random();
        let output = Memory::default();
        let sinks =
            Sinks { output: Box::new(output.clone()), log: Box::new(io::sink()), transcript: None };
        let console = Console::new(Some(&nonce), false, sinks);
        let waiting = {
            let console = console.clone();
            std::thread::spawn(move || console.wait_until_ready())
        };
        let text = format!("boot\r\n{}# ", marker(&nonce, "shell"));
        console.output().write_all(text.as_bytes()).unwrap();
        waiting.join().unwrap();
        assert_eq!(output.text(), "boot\r\n# ");
        assert_eq!(console.after_reset(), AfterReset::Boot);
    }

    #[test]
    fn a_panicked_guest_is_not_booted_again() {
        let sinks =
            Sinks { output: Box::new(io::sink()), log: Box::new(io::sink()), transcript: None };
        let console = Console::new(None, false, sinks);
        console.wait_until_ready();
        assert_eq!(console.after_reset(), AfterReset::Boot);
        console.output().write_all(b"[ 1.0] Kernel panic - not syncing: why\r\n").unwrap();
        assert_eq!(console.after_reset(), AfterReset::End);
        assert_eq!(console.finish().panic.as_deref(), Some("why"));
    }

    #[test]
    fn a_console_that_cannot_be_written_stops_the_machine_once() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sinks = Sinks { output: Box::new(Full), log: Box::new(io::sink()), transcript: None };
        let console = Console::new(None, false, sinks);
        let handle = Arc::new(StopCount::default());
        console.attach(handle.clone());
        for _ in 0..3 {
            console.output().write_all(b"x").unwrap();
        }
        assert_eq!(*handle.0.lock().unwrap(), 1);
        assert_eq!(console.finish().broken.unwrap().kind(), io::ErrorKind::StorageFull);
    }
}
