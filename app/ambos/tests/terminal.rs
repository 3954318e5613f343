//! The terminal is the guest's while it runs, and as it was afterwards, whatever ended the run.

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long to wait for what takes about a second.
const PATIENCE: Duration = Duration::from_secs(120);

/// A guest with a terminal of its own.
struct Session {
    keyboard: File,
    terminal: OwnedFd,
    /// What the terminal was like before.
    before: String,
    /// What the guest has printed.
    screen: Arc<Mutex<Vec<u8>>>,
    ambos: Child,
}

impl Session {
    /// Starts a guest and waits until it has the terminal.
    fn start(arguments: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal =
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let before = format!("{:?}", tcgetattr(&terminal).unwrap());

        // Someone must look at the screen, or the guest would wait for that.
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                seen.lock().unwrap().extend(&buffer[..length]);
            }
        });
        let side = || terminal.try_clone().unwrap();
        let ambos = Command::new(env!("CARGO_BIN_EXE_ambos"))
            .args(["run", "--guest", "debian-cloud"])
            .args(arguments)
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let mut session = Self { keyboard, terminal, before, screen, ambos };
        session.wait_until("the guest has the terminal", |session| {
            let modes = tcgetattr(&session.terminal).unwrap().local_modes;
            !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        });
        session
    }

    fn wait_until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            if start.elapsed() > PATIENCE {
                let _ = self.ambos.kill();
                panic!("waited in vain: {what}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the guest's shell greets.
    fn wait_for_shell(&mut self) {
        self.wait_until("the shell is there", |session| {
            let screen = session.screen.lock().unwrap();
            String::from_utf8_lossy(&screen).contains("Leave with exit")
        });
    }

    /// Waits for the end, checks the terminal, and returns the exit status.
    fn finish(mut self) -> i32 {
        self.wait_until("the run ends", |session| session.ambos.try_wait().unwrap().is_some());
        assert_eq!(format!("{:?}", tcgetattr(&self.terminal).unwrap()), self.before);
        self.ambos.wait().unwrap().code().unwrap()
    }
}

#[test]
fn the_user_can_end_the_guest() {
    let mut session = Session::start(&[]);
    // The first two keys are the guest's.
    session.keyboard.write_all(b"\x03x\x01x").unwrap();
    assert_eq!(session.finish(), 0);
}

#[test]
fn a_pv_guest_is_asked_to_switch_off() {
    let mut session = Session::start(&["-t", "para"]);
    session.keyboard.write_all(b"echo it is $((1 + 1))-up\n").unwrap();
    session.wait_until("the shell answers", |session| {
        let screen = session.screen.lock().unwrap();
        String::from_utf8_lossy(&screen).contains("it is 2-up")
    });
    session.keyboard.write_all(b"\x01p").unwrap();
    assert_eq!(session.finish(), 0);
}

#[test]
fn the_power_button_of_a_pc_is_heard() {
    let mut session = Session::start(&["-t", "hybrid"]);
    session.wait_for_shell();
    session.keyboard.write_all(b"\x01p").unwrap();
    assert_eq!(session.finish(), 0);
}

#[test]
fn the_guest_restarts_and_switches_itself_off() {
    for technique in ["full", "para"] {
        let mut session = Session::start(&["-t", technique]);
        session.wait_for_shell();
        session.screen.lock().unwrap().clear();
        session.keyboard.write_all(b"reboot\n").unwrap();
        session.wait_for_shell();
        session.keyboard.write_all(b"poweroff\n").unwrap();
        assert_eq!(session.finish(), 0);
    }
}

#[test]
fn signals_end_the_guest() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let session = Session::start(&[]);
        kill_process(Pid::from_child(&session.ambos), signal).unwrap();
        assert_eq!(session.finish(), 128 + signal.as_raw());
    }
}
