//! What a guest with virtio devices reaches of the host besides disks and network: its console, sockets
//! and shared directories.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lines of a kernel log that the devices must not cause.
const COMPLAINTS: [&str; 5] = ["WARNING:", "Call Trace", "nobody cared", "BUG:", "Oops"];

fn ambos(more: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
    command
        .args(["run", "--verbose", "-t", "hybrid", "--guest", "debian-cloud", "--net", "none"])
        .args(more)
        .args(["--exec", script])
        .stdin(Stdio::null());
    command
}

/// Runs `script` in a guest; returns its output.
fn run(more: &[&str], script: &str) -> String {
    let output = ambos(more, script).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    for line in log.lines() {
        assert!(!COMPLAINTS.iter().any(|complaint| line.contains(complaint)), "{line}");
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory with the program that tries sockets from inside.
fn with_program() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("workload");
    std::fs::write(&program, ambos_compare::WORKLOAD).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn output_comes_through_the_paravirtual_console() {
    let output = run(&["--stats"], "readlink /proc/self/fd/1; seq 1 2000 | tail -c 9000");
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some("/dev/hvc0"));
    let numbers: Vec<u32> = lines.skip(1).map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&2000));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn a_shell_is_typed_to_on_the_paravirtual_console() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ambos"))
        .args(["run", "-t", "hybrid", "--guest", "debian-cloud", "--net", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"tty; echo $((6 * 7))\nexit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(output.contains("\n/dev/hvc0\n42\n"), "{output}");
}

#[test]
fn a_guest_reaches_a_program_of_the_host() {
    let shared = with_program();
    let share = format!("{}:programs", text(shared.path()));
    let path = shared.path().join("socket");
    let listener = UnixListener::bind(shared.path().join("socket_1000")).unwrap();
    let host = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut copy = stream.try_clone().unwrap();
        std::io::copy(&mut stream, &mut copy).unwrap()
    });
    let script = "mount -t virtiofs programs /mnt && /mnt/workload vsock ask 1000 3000000
                  /mnt/workload vsock ask 1001 1";
    let output = ambos(&["--share", &share, "--vsock", text(&path)], script).output().unwrap();
    // Nobody listens on the second port: connection reset.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "same\nerror 104\n");
    assert_eq!(host.join().unwrap(), 3_000_000);
    assert!(!path.exists());
}

#[test]
fn a_program_of_the_host_reaches_the_guest() {
    let shared = with_program();
    let share = format!("{}:programs", text(shared.path()));
    let path = shared.path().join("socket");
    let script = "mount -t virtiofs programs /mnt && /mnt/workload vsock echo 52";
    let mut child = ambos(&["--share", &share, "--vsock", text(&path)], script)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "listening");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.write_all(b"CONNECT 52\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    let data: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let sender = {
        let data = data.clone();
        std::thread::spawn(move || {
            stream.write_all(&data).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        })
    };
    let mut back = Vec::new();
    reader.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == data, "{} bytes came back", back.len());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_shared_directory_is_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let content: Vec<u8> = (0..5_000_000u64).map(|n| ((n * 2_654_435_761) >> 13) as u8).collect();
    std::fs::write(at("data"), &content).unwrap();
    std::fs::create_dir(at("sub")).unwrap();
    let script = "\
set -e
mount -t virtiofs files /mnt
cd /mnt
ls -1
wc -c < data
cp data sub/copy
cmp data sub/copy && echo same
sha256sum < sub/copy | cut -d ' ' -f 1 > sum
mkdir new; mv sub/copy new/moved; ln -s moved new/link; chmod 600 new/moved
[ -z \"$(ls sub)\" ] && rmdir sub
echo more >> sum
stat -c %a new/moved";
    let share = format!("{}:files", text(directory.path()));
    let output = run(&["--share", &share], script);
    assert_eq!(output, "data\nsub\n5000000\nsame\n600\n");
    assert!(std::fs::read(at("new/moved")).unwrap() == content);
    assert_eq!(std::fs::read_link(at("new/link")).unwrap(), Path::new("moved"));
    assert!(!at("sub").exists());
    let sum = Command::new("sha256sum").arg(at("data")).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    let expected = format!("{}\nmore\n", sum.split_once(' ').unwrap().0);
    assert_eq!(std::fs::read_to_string(at("sum")).unwrap(), expected);
}

#[test]
fn a_guest_stays_in_its_directories() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::create_dir(at("inside")).unwrap();
    std::fs::create_dir(at("fixed")).unwrap();
    std::fs::write(at("fixed/file"), "kept\n").unwrap();
    std::fs::write(at("secret"), "secret\n").unwrap();
    symlink(at("secret"), at("inside/absolute")).unwrap();
    symlink("../secret", at("inside/relative")).unwrap();
    symlink(directory.path(), at("inside/directory")).unwrap();
    let script = "\
mkdir /mnt/a /mnt/b
mount -t virtiofs files /mnt/a && mount -t virtiofs fixed /mnt/b
cat /mnt/a/absolute /mnt/a/relative /mnt/a/directory/secret /mnt/a/../secret 2>&1 | grep -c 'No such'
exec 2> /dev/null
echo changed > /mnt/a/absolute; echo changed > /mnt/a/relative
mknod /mnt/a/disk b 8 0 2>&1 | grep -o 'not permitted'
cat /mnt/b/file
echo x > /mnt/b/file || rm /mnt/b/file || mkdir /mnt/b/new || chmod 777 /mnt/b/file || echo refused";
    let fixed = format!("{}:fixed,readonly", text(&at("fixed")));
    let files = format!("{}:files", text(&at("inside")));
    let output = run(&["--share", &files, "--share", &fixed], script);
    assert_eq!(output, "4\nnot permitted\nkept\nrefused\n");
    assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "secret\n");
    assert_eq!(std::fs::read_to_string(at("fixed/file")).unwrap(), "kept\n");
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["fixed", "inside", "secret"]);
}

#[test]
fn what_cannot_be_reached_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let taken = directory.path().join("taken");
    let _listener = UnixListener::bind(&taken).unwrap();
    let here = format!("{}:here", text(directory.path()));
    let long = format!("/tmp/{}", "x".repeat(110));
    for (arguments, expected) in [
        (&["--share", "/nonexistent:x"][..], "cannot share the directory /nonexistent"),
        (&["--share", "/tmp"], "is not DIRECTORY:TAG"),
        (&["--vsock", text(&taken)], "cannot listen on the socket"),
        (&["--vsock", &long], "a socket's path has at most 107 bytes"),
        (&["--share", "/tmp:x,ro"], "(readonly)"),
        (&["--share", &here, "--share", &here], "two directories have the tag"),
        (&["-t", "full", "--share", &here], "add -t hybrid"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ambos"));
        command.args(["run", "--guest", "debian-cloud"]);
        if !arguments.contains(&"-t") {
            command.args(["-t", "hybrid"]);
        }
        let output = command.args(arguments).args(["--exec", "true"]).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
