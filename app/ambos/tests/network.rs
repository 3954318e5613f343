//! The network: guests get an address, reach servers of this host, and are reached where a port is
//! forwarded. `AMBOS_TEST_NET_MIB` makes transfers longer than usual; `cargo xtask soak` sets it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lines of a kernel log that adapters must not cause.
const COMPLAINTS: [&str; 6] = [
    "WARNING:",
    "Call Trace",
    "nobody cared",
    "Detected Tx Unit Hang",
    "NETDEV WATCHDOG",
    "hw csum failure",
];

/// What a guest has to run.
const GUESTS: [(&str, &str); 3] =
    [("full", "debian-standard"), ("hybrid", "debian-cloud"), ("para", "debian-cloud")];

fn ambos(technique: &str, guest: &str, network: &str, script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
    command
        .args(["run", "--verbose", "-t", technique, "--guest", guest, "--net", network])
        .args(["--exec", script])
        .stdin(Stdio::null());
    command
}

/// Runs `script` in a guest; returns its output.
fn run(technique: &str, guest: &str, network: &str, script: &str) -> String {
    // Files lie in memory, of which they may take half.
    let memory = format!("--memory={}M", 512 + 2 * (length() >> 20));
    let output = ambos(technique, guest, network, script).arg(memory).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{technique}: {log}");
    for line in log.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bytes that follow no short pattern. None is zero, where busybox believes that a body ends.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 | 1
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Reads a request of HTTP: its first line, and its body.
fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first, body)
}

/// Serves downloads of `bytes`, and answers uploads with whether they are `bytes`; returns its port.
fn serve(bytes: Vec<u8>) -> u16 {
    serve_at("127.0.0.1", bytes)
}

/// The same at another address of this host.
fn serve_at(address: &str, bytes: Vec<u8>) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (first, body) = request(&stream);
            let answer = if first.starts_with("GET") {
                bytes.clone()
            } else {
                format!("same: {}\n", body == bytes).into_bytes()
            };
            let length = answer.len();
            write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n").unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    port
}

fn transfer(technique: &str, guest: &str, length: usize) {
    let port = serve(content(length));
    let script = format!(
        "set -e
         ip -4 addr show eth0 | grep -o 'inet [0-9.]*'
         ping -c 2 -W 5 10.0.2.2 > /dev/null && echo pinged
         wget -q -O /tmp/file http://10.0.2.2:{port}/file
         wc -c < /tmp/file
         wget -q -O - --post-file=/tmp/file http://10.0.2.2:{port}/file"
    );
    let output = run(technique, guest, "user", &script);
    let expected = format!("inet 10.0.2.15\npinged\n{length}\nsame: true\n");
    assert_eq!(output, expected, "{technique}");
}

/// Bytes to move each way.
fn length() -> usize {
    let mib = std::env::var("AMBOS_TEST_NET_MIB").map_or(8, |value| value.parse().unwrap());
    mib << 20
}

/// A TAP interface of this host, as long as it lives.
struct Tap(String);

impl Tap {
    /// An interface with an address of this host; `None` where that takes privileges that there are not.
    fn new(address: &str) -> Option<Self> {
        let ip = |arguments: &[&str]| {
            let status = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        };
        let name = format!("ambos{}", std::process::id() % 1_000_000);
        if !ip(&["tuntap", "add", &name, "mode", "tap"]) {
            return None;
        }
        let tap = Self(name);
        let address = format!("{address}/24");
        let usable =
            ip(&["address", "add", &address, "dev", &tap.0]) && ip(&["link", "set", &tap.0, "up"]);
        usable.then_some(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.0]).status();
    }
}

#[test]
fn guests_use_an_interface_of_the_host() {
    const HOST: &str = "10.213.77.1";
    let Some(tap) = Tap::new(HOST) else {
        eprintln!("not tested: this user may not make TAP interfaces");
        return;
    };
    let length = 4 << 20;
    let port = serve_at(HOST, content(length));
    for (technique, guest) in GUESTS {
        let script = format!(
            "set -e
             ip addr add 10.213.77.2/24 dev eth0
             ping -c 2 -W 5 {HOST} > /dev/null && echo pinged
             wget -q -O /tmp/file http://{HOST}:{port}/file
             wc -c < /tmp/file
             wget -q -O - --post-file=/tmp/file http://{HOST}:{port}/file"
        );
        let output = run(technique, guest, &format!("tap={}", tap.0), &script);
        assert_eq!(output, format!("pinged\n{length}\nsame: true\n"), "{technique}");
    }
}

#[test]
fn an_unaware_guest_downloads_and_uploads() {
    transfer(GUESTS[0].0, GUESTS[0].1, length());
}

#[test]
fn a_guest_with_virtio_downloads_and_uploads() {
    transfer(GUESTS[1].0, GUESTS[1].1, length());
}

#[test]
fn a_pv_guest_downloads_and_uploads() {
    transfer(GUESTS[2].0, GUESTS[2].1, length());
}

#[test]
fn forwarded_ports_lead_to_the_guest() {
    for (technique, guest) in GUESTS {
        // Free a moment ago; nobody else here asks for this one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let network = format!("user,forward={port}:80");
        let script = "echo hello | nc -l -p 80 | { read word; echo heard $word; }";
        let child = ambos(technique, guest, &network, script).stdout(Stdio::piped()).spawn();
        let child = child.unwrap();
        // The guest listens some time after it has an address; until then connections end.
        let answer = (0..600).find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.write_all(b"there\n").ok()?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).ok()?;
            Some(line).filter(|line| !line.is_empty())
        });
        assert_eq!(answer.as_deref(), Some("hello\n"), "{technique}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "heard there\n", "{technique}");
    }
}

#[test]
fn a_guest_may_have_no_network() {
    let output = run("hybrid", "debian-cloud", "none", "ls /sys/class/net");
    assert_eq!(output, "lo\n");
}

#[test]
fn networks_that_cannot_be_used_are_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("user,forward={}:80", taken.local_addr().unwrap().port());
    let cases = [
        (&forward[..], "cannot listen on"),
        ("tap=no-such-tap", "`ip tuntap add no-such-tap mode tap user $USER` makes it"),
        ("bridge", "(user, tap=NAME, none)"),
        ("user,forward=80", "HOSTPORT:GUESTPORT"),
        ("user,forward=localhost:1:2", "an address in numbers"),
        ("user,hostfwd=1", "user has no option \"hostfwd=1\" (forward=..., mtu=..., mac=...)"),
        ("tap=t,mtu=9000", "tap=t has no option"),
        ("user,", "missing after a comma"),
        ("user,mac=2", "such as 02:00:00:00:00:01"),
    ];
    for (network, expected) in cases {
        let output = ambos("hybrid", "debian-cloud", network, "true").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{network}: {message}");
        assert_eq!(message.lines().filter(|line| line.starts_with("ambos: ")).count(), 1);
        assert!(message.contains(expected), "{network}: {message}");
    }
}
