//! `ambos run`: boot a guest, connect it to the terminal, say how it ended.

mod arguments;
mod console;
mod disk;
mod keys;
mod machine;
mod network;
mod panic_watch;
mod plan;
mod screen;
mod share;
mod verdict;
mod windows;

pub(crate) use arguments::Arguments;

use crate::failure::Failure;
use crate::terminal::{self, RawMode};
use ambos_guest::exec::Phase;
use console::{Console, Seen, Sinks};
use keys::{Keys, Request};
use machine::{Finished, Handle, Started, Statistics, Surroundings};
use plan::Plan;
use screen::ScreenFile;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// How many lines of the kernel's log are shown when a command did not end.
const LOG_LINES: usize = 24;

/// Runs the guest that the arguments describe and returns the exit status.
pub(crate) fn execute(arguments: &Arguments, verbose: bool) -> Result<u8, Failure> {
    let size = if has_terminal(arguments) { terminal::size() } else { None };
    let plan = Plan::new(arguments, plan::cached_guest, size)?;
    let sinks = sinks(&arguments.console, arguments.exec.is_some(), verbose)?;
    supervise(arguments, &plan, sinks, verbose, machine::start)
}

/// Whether the guest's console is the monitor's standard input and output.
fn has_terminal(arguments: &Arguments) -> bool {
    arguments.exec.is_none() && arguments.console == arguments::Console::Stdio
}

/// Runs the machine that `start` makes, connected to the sinks, the terminal and signals.
fn supervise(
    arguments: &Arguments,
    plan: &Plan,
    sinks: Sinks,
    verbose: bool,
    start: impl FnOnce(&Plan, Surroundings) -> Result<Started, Failure>,
) -> Result<u8, Failure> {
    let exec = arguments.exec.is_some();
    if let Some(screen) = &arguments.screen {
        screen.create()?;
    }
    let report = Report::new(arguments.stats.as_ref())?;
    let console = Console::new(plan.nonce.as_ref(), exec, sinks);
    let surroundings = {
        let console = console.clone();
        Surroundings {
            console: Box::new(console.output()),
            after_reset: Box::new(move || console.after_reset()),
        }
    };
    let Started { handle, run } = start(plan, surroundings)?;
    console.attach(Arc::clone(&handle));
    let signal = stop_on_signals(Arc::clone(&handle))?;
    if let Some((rows, columns)) = plan.terminal {
        handle.resize(rows, columns);
        let handle = Arc::clone(&handle);
        terminal::on_resize(move |rows, columns| handle.resize(rows, columns))
            .map_err(|error| Failure::monitor("cannot handle signals", error))?;
    }
    if let Some(screen) = &arguments.screen {
        screen
            .write_on_signal(Arc::clone(&handle))
            .map_err(|error| Failure::monitor("cannot handle signals", error))?;
    }
    let screen = arguments.screen.clone();
    let raw = if has_terminal(arguments) {
        connect_input(&console, Arc::clone(&handle), screen)?
    } else {
        None
    };
    let Finished { outcome, statistics } = run();
    let on_terminal = raw.is_some();
    drop(raw);
    if let (Some(file), Some(screen)) = (&arguments.screen, handle.screen()) {
        file.write(&screen)?;
    }

    let seen = console.finish();
    if on_terminal && seen.mid_line {
        // What follows is not the guest's; if it cannot be printed nothing else can.
        let _ = writeln!(stdout());
    }
    if exec && !verbose {
        show_log(&seen);
    }
    if let Some(statistics) = statistics {
        report.deliver(&statistics)?;
    }
    let signal = Some(signal.load(Ordering::Acquire)).filter(|&number| number != 0);
    verdict::verdict(outcome, seen, signal)
}

/// Where what the guest prints goes.
fn sinks(console: &arguments::Console, exec: bool, verbose: bool) -> Result<Sinks, Failure> {
    let file: Option<Box<dyn Write + Send>> = match console {
        arguments::Console::Stdio => None,
        arguments::Console::File(path) => Some(Box::new(create(path)?)),
    };
    let log: Box<dyn Write + Send> =
        if verbose { Box::new(stderr()) } else { Box::new(io::sink()) };
    Ok(match file {
        // The output of a command goes to standard output in any case.
        Some(file) if !exec => Sinks { output: file, log, transcript: None },
        transcript => Sinks { output: Box::new(stdout()), log, transcript },
    })
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path)
        .map_err(|error| Failure::usage_because(format!("cannot write {}", path.display()), error))
}

/// Lets signals that mean to end the monitor stop the machine; the result is the first one's number,
/// or zero.
fn stop_on_signals(handle: Arc<dyn Handle>) -> Result<Arc<AtomicI32>, Failure> {
    let first = Arc::new(AtomicI32::new(0));
    let record = Arc::clone(&first);
    terminal::on_termination(move |signal| {
        record.store(signal, Ordering::Release);
        handle.stop();
    })
    .map_err(|error| Failure::monitor("cannot handle signals", error))?;
    Ok(first)
}

/// Passes standard input on to the guest, from a thread that lives as long as the monitor.
fn connect_input(
    console: &Console,
    handle: Arc<dyn Handle>,
    screen: Option<ScreenFile>,
) -> Result<Option<RawMode>, Failure> {
    let console = console.clone();
    let (raw, forward): (_, Box<dyn FnOnce() + Send>) = if stdin().is_terminal() {
        let raw = RawMode::enter(stdin())
            .map_err(|error| Failure::monitor("cannot set up the terminal", error))?;
        (Some(raw), Box::new(move || forward_keys(stdin(), handle.as_ref(), screen.as_ref())))
    } else {
        let forward = move || {
            console.wait_until_ready();
            forward_bytes(stdin(), handle.as_ref());
        };
        (None, Box::new(forward))
    };
    std::thread::Builder::new()
        .name("console input".to_owned())
        .spawn(forward)
        .map_err(|error| Failure::monitor("cannot start a thread", error))?;
    Ok(raw)
}

/// Passes on what is typed, but for requests to the monitor.
fn forward_keys(input: impl Read, handle: &dyn Handle, screen: Option<&ScreenFile>) {
    let mut keys = Keys::default();
    let asked = AtomicBool::new(false);
    read_pieces(input, |typed| {
        let mut guest = Vec::new();
        for request in keys.feed(typed, &mut guest) {
            match request {
                Request::Help => eprint!("\r\n{}", keys::HELP),
                Request::PowerButton => handle.press_power_button(),
                Request::Screen => match screen {
                    Some(screen) => screen.write_now(handle),
                    None => {
                        eprint!("\r\nthere is no file for the screen; start with --screen FILE\r\n")
                    }
                },
                // Asked twice, it is meant.
                Request::Quit if asked.swap(true, Ordering::Relaxed) => {
                    terminal::restore();
                    std::process::exit(0);
                }
                Request::Quit => handle.stop(),
            }
        }
        if !guest.is_empty() {
            handle.send(&guest);
        }
    });
}

/// Passes on all there is to read. Its end means nothing to the guest.
fn forward_bytes(input: impl Read, handle: &dyn Handle) {
    read_pieces(input, |bytes| handle.send(bytes));
}

fn read_pieces(mut input: impl Read, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => take(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!("standard input cannot be read: {error}");
                return;
            }
        }
    }
}

/// Shows why a command did not start, as far as the kernel's log tells.
fn show_log(seen: &Seen) {
    if seen.phase != Some(Phase::Booting) {
        return;
    }
    let text = String::from_utf8_lossy(&seen.log);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        eprintln!("{line}");
    }
}

/// Where what was counted goes. A file is made before the guest starts: the guest's work must not be
/// lost to a misspelt name.
enum Report {
    Nowhere,
    Terminal,
    File(PathBuf, File),
}

impl Report {
    fn new(stats: Option<&Option<PathBuf>>) -> Result<Self, Failure> {
        Ok(match stats {
            None => Self::Nowhere,
            Some(None) => Self::Terminal,
            Some(Some(path)) => Self::File(path.clone(), create(path)?),
        })
    }

    fn deliver(self, statistics: &Statistics) -> Result<(), Failure> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Terminal => {
                eprint!("{}", statistics.table);
                Ok(())
            }
            Self::File(path, mut file) => {
                file.write_all(statistics.json.as_bytes()).map_err(|error| {
                    Failure::monitor(format!("cannot write {}", path.display()), error)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::run::console::tests::Memory;
    use ambos_guest::exec::WindowMark;
    use clap::Parser;
    use machine::{AfterReset, Outcome};
    use plan::GuestFiles;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    struct Idle;

    impl Handle for Idle {
        fn send(&self, _bytes: &[u8]) {}
        fn mark(&self, _mark: WindowMark) {}
        fn resize(&self, _rows: u16, _columns: u16) {}
        fn press_power_button(&self) {}
        fn screen(&self) -> Option<ambos_machine::Screen> {
            None
        }
        fn stop(&self) {}
    }

    /// Runs a machine that prints `text`, with `NONCE` replaced, and ends with `outcome`.
    fn run(words: &[&str], text: &'static str, outcome: Outcome) -> (Result<u8, Failure>, String) {
        let kernel = tempfile::NamedTempFile::new().unwrap();
        let words = std::iter::once("run").chain(words.iter().copied());
        let arguments = Program::try_parse_from(words).unwrap().arguments;
        let files = GuestFiles { kernel: kernel.path().into(), initrd: kernel.path().into() };
        let plan = Plan::new(&arguments, |_| Ok(files), None).unwrap();
        let output = Memory::default();
        let sinks =
            Sinks { output: Box::new(output.clone()), log: Box::new(io::sink()), transcript: None };
        let start = |plan: &Plan, mut surroundings: Surroundings| {
            let nonce = plan.nonce.as_ref().unwrap().kernel_parameter();
            let text = text.replace("NONCE", nonce.strip_prefix("ambos.nonce=").unwrap());
            let run = move || {
                surroundings.console.write_all(text.as_bytes()).unwrap();
                if matches!(outcome, Outcome::Reset) {
                    assert_eq!((surroundings.after_reset)(), AfterReset::End);
                }
                let statistics = Statistics { table: String::new(), json: "{}".to_owned() };
                Finished { outcome, statistics: Some(statistics) }
            };
            Ok(Started { handle: Arc::new(Idle), run: Box::new(run) })
        };
        let result = supervise(&arguments, &plan, sinks, true, start);
        (result, output.text())
    }

    const COMMAND: &str =
        "log\r\n\x1b]ambos;NONCE;begin\x07hello\n\x1b]ambos;NONCE;end=9\x07[ 3.0] reboot: off\r\n";

    #[test]
    fn a_command_gives_output_and_status() {
        let (result, output) = run(&["--exec", "x"], COMMAND, Outcome::PoweredOff);
        assert_eq!(result.unwrap(), 9);
        assert_eq!(output, "hello\n");
    }

    #[test]
    fn a_panic_before_the_command_is_a_crash() {
        let text = "[    1.0] Kernel panic - not syncing: No init found.\r\n";
        let (result, output) = run(&["--exec", "x"], text, Outcome::Reset);
        let failure = result.unwrap_err();
        assert_eq!(failure.line(), "the guest crashed: kernel panic: No init found.");
        assert_eq!(output, "");
    }

    #[test]
    fn statistics_are_written_where_asked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        let words = ["--exec", "x", "--stats", path.to_str().unwrap()];
        assert_eq!(run(&words, COMMAND, Outcome::PoweredOff).0.unwrap(), 9);
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
        let words = ["--exec", "x", "--stats", "/nonexistent/stats.json"];
        assert_eq!(run(&words, COMMAND, Outcome::PoweredOff).0.unwrap_err().status(), 2);
    }

    #[test]
    fn all_input_reaches_the_guest() {
        #[derive(Default)]
        struct Typed(std::sync::Mutex<Vec<u8>>);
        impl Handle for Typed {
            fn send(&self, bytes: &[u8]) {
                self.0.lock().unwrap().extend_from_slice(bytes);
            }
            fn mark(&self, _mark: WindowMark) {}
            fn resize(&self, _rows: u16, _columns: u16) {}
            fn press_power_button(&self) {}
            fn screen(&self) -> Option<ambos_machine::Screen> {
                None
            }
            fn stop(&self) {
                self.send(b"(stop)");
            }
        }
        let typed = Typed::default();
        forward_bytes(&b"ls\n\x01x"[..], &typed);
        assert_eq!(*typed.0.lock().unwrap(), b"ls\n\x01x");
        let typed = Typed::default();
        forward_keys(&b"ls\n\x01x"[..], &typed, None);
        assert_eq!(*typed.0.lock().unwrap(), b"(stop)ls\n");
    }
}
