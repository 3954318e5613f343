//! The screen of a guest: the drivers of a stock kernel bind to the display adapter, keyboard and mouse, and what they
//! draw is in the picture.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Lines of a kernel log that none of these devices must cause.
const COMPLAINTS: [&str; 9] = [
    "WARNING:",
    "Call Trace",
    "nobody cared",
    "i8042: Can't",
    "i8042: Failed",
    "Spurious ACK",
    "psmouse: probe",
    "lost sync",
    "conflicting",
];

/// A monitor whose guest runs `script` with its log on the screen, too, and whose screen goes to `screen`.
fn command(arguments: &[&str], screen: &Path, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
    command
        .args(["run", "--exec", script, "--append", "console=tty0 console=ttyS0", "--screen"])
        .arg(screen)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `script`; returns its output, in which the kernel's log has no complaints.
fn run(arguments: &[&str], screen: &Path, script: &str) -> String {
    let output = command(arguments, screen, script).output().unwrap();
    let (text, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{text}{log}");
    for line in text.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    text.into_owned()
}

/// Width, height and the dots of a picture.
fn picture(path: &Path) -> (u32, u32, Vec<u8>) {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    (info.width, info.height, rgb)
}

#[test]
fn the_vga_console_is_on_the_screen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.txt");
    // The kernel's own copy of the screen is the measure.
    let script = "modprobe psmouse
        i=0; until dmesg | grep -q 'Mouse as' || [ $i = 600 ]; do i=$((i+1)); sleep 0.1; done
        dmesg | grep -E 'Console|i8042|serio|psmouse|input:'
        printf '\\033[2J\\033[Hon the screen\\n\\033[7mreversed\\033[0m\\n\\n    x\\n' > /dev/tty1
        echo copy; cat /dev/vcs1 | fold -w 80";
    let output = run(&[], &path, script);
    for line in [
        "Console: colour VGA+ 80x25",
        "serio: i8042 KBD port at 0x60,0x64 irq 1",
        "serio: i8042 AUX port at 0x60,0x64 irq 12",
        "input: AT Translated Set 2 keyboard",
        "input: PS/2 Generic Mouse",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let (_, copy) = output.split_once("copy\n").unwrap();
    let copy: Vec<&str> = copy.lines().map(str::trim_end).collect();
    assert_eq!(copy[..5], ["on the screen", "reversed", "", "    x", ""]);
    let screen = std::fs::read_to_string(&path).unwrap();
    let screen: Vec<&str> = screen.lines().collect();
    assert_eq!(screen.len(), 25);
    assert_eq!(screen[..4], copy[..4]);
    assert!(screen[4].ends_with("reboot: Power down"), "{screen:?}");
}

#[test]
fn bochs_drm_draws_into_a_frame_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.png");
    let script = "modprobe bochs
        printf '\\033[2J\\033[H\\033[44m\\033[2J' > /dev/tty1
        dmesg | grep -E 'drm|fb0'; cat /proc/fb";
    let output = run(&[], &path, script);
    for line in [
        "[drm] Found bochs VGA, ID 0xb0c5.",
        "[drm] Framebuffer size 16384 kB @ 0xfd000000, mmio @ 0xfebf0000.",
        "0 bochs-drmdrmfb",
    ] {
        assert!(output.contains(line), "{line}: {output}");
    }
    let (width, height, rgb) = picture(&path);
    assert_eq!((width, height), (1024, 768));
    let blue = rgb.chunks(3).filter(|dot| **dot == [0, 0, 0xaa]).count();
    assert!(blue > 1024 * 700, "{blue} dots are blue");
}

#[test]
fn a_kernel_starts_with_a_frame_buffer_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.png");
    let script = "cat /proc/fb; dmesg | grep -E 'vesafb|Console'";
    let output = run(&["--vga", "800x600"], &path, script);
    assert!(output.starts_with("0 VESA VGA\n"), "{output}");
    assert!(output.contains("vesafb: mode is 800x600x32, linelength=3200"), "{output}");
    let (width, height, rgb) = picture(&path);
    assert_eq!((width, height), (800, 600));
    assert!(rgb.chunks(3).any(|dot| dot != [0; 3]));
}

#[test]
fn a_signal_asks_for_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.txt");
    let script = "echo 'seen meanwhile' > /dev/tty1; echo ready; sleep 600";
    let arguments = ["-t", "hybrid", "--guest", "debian-cloud"];
    let mut child = command(&arguments, &path, script).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    let begin = Instant::now();
    while !std::fs::read_to_string(&path).unwrap().contains("seen meanwhile") {
        assert!(begin.elapsed() < Duration::from_secs(120), "no picture was written");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_pv_guest_has_no_screen() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(&["-t", "para"], &folder.path().join("a.png"), "true").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("a PV guest has no screen"), "{error}");
}
