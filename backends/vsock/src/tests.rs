//! Both sides of connections, with a test in the guest's place.

use crate::packet::{HOST_CID, STREAM, operation, shutdown};
use crate::{Header, UnixSockets};
use proptest::prelude::*;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

const CID: u64 = 3;
const GUEST_ROOM: u32 = 10_000;

struct Bench {
    sockets: UnixSockets,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sockets = UnixSockets::new(&directory.path().join("sock"), CID).unwrap();
        Self { sockets, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn send(&self, guest: u32, host: u32, operation: u16, more: Header, data: &[u8]) {
        let header = Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: guest,
            destination_port: host,
            length: data.len() as u32,
            kind: STREAM,
            operation,
            room: GUEST_ROOM,
            ..more
        };
        self.sockets.transmit(&header, data);
    }

    /// The next packet, for which the guest waits.
    fn next(&self) -> (Header, Vec<u8>) {
        let mut data = Vec::new();
        for _ in 0..6000 {
            if let Some(header) = self.sockets.receive(4096, &mut data) {
                assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
                assert_eq!(header.length as usize, data.len());
                return (header, data);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no packet came");
    }
}

fn plain() -> Header {
    Header::default()
}

#[test]
fn a_guest_reaches_who_listens() {
    let bench = Bench::new();
    let listener = UnixListener::bind(bench.path("sock_70")).unwrap();
    bench.send(9, 70, operation::REQUEST, plain(), &[]);
    let (mut program, _) = listener.accept().unwrap();
    assert_eq!(bench.next().0.operation, operation::RESPONSE);
    bench.send(9, 70, operation::DATA, plain(), b"hello\n");
    let mut line = String::new();
    BufReader::new(&program).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");

    program.write_all(b"there").unwrap();
    let (header, data) = bench.next();
    assert_eq!((header.operation, header.source_port, header.destination_port), (5, 70, 9));
    assert_eq!((&data[..], header.forwarded), (&b"there"[..], 6));

    drop(program);
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.flags), (operation::SHUTDOWN, shutdown::SEND));
    let both = Header { flags: shutdown::SEND | shutdown::RECEIVE, ..plain() };
    bench.send(9, 70, operation::SHUTDOWN, both, &[]);
    assert_eq!(bench.next().0.operation, operation::RESET);
    // Nobody knows of it any more.
    bench.send(9, 70, operation::DATA, plain(), b"x");
    assert_eq!(bench.next().0.operation, operation::RESET);
}

#[test]
fn nobody_listens() {
    let bench = Bench::new();
    bench.send(9, 71, operation::REQUEST, plain(), &[]);
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.destination_port), (operation::RESET, 9));
}

#[test]
fn a_program_reaches_the_guest() {
    let bench = Bench::new();
    let mut program = UnixStream::connect(bench.path("sock")).unwrap();
    program.write_all(b"CONNECT 52\nearly").unwrap();
    let (header, _) = bench.next();
    assert_eq!((header.operation, header.destination_port), (operation::REQUEST, 52));
    let host = header.source_port;
    bench.send(52, host, operation::RESPONSE, plain(), &[]);
    let mut reader = BufReader::new(program.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, format!("OK {host}\n"));
    assert_eq!(bench.next().1, b"early");
    bench.send(52, host, operation::DATA, plain(), b"answer");
    let end = Header { flags: shutdown::SEND, ..plain() };
    bench.send(52, host, operation::SHUTDOWN, end, &[]);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "answer");
}

#[test]
fn nonsense_in_place_of_a_port_ends_the_connection() {
    let bench = Bench::new();
    for nonsense in [&b"HELLO\n"[..], b"CONNECT x\n", b"CONNECT 99999999999\n", &[b'1'; 100]] {
        let mut program = UnixStream::connect(bench.path("sock")).unwrap();
        program.write_all(nonsense).unwrap();
        let end = program.read(&mut [0; 1]);
        assert!(
            matches!(&end, Ok(0))
                || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
        );
    }
}

#[test]
fn credit_holds_both_sides_back() {
    let bench = Bench::new();
    let listener = UnixListener::bind(bench.path("sock_1")).unwrap();
    bench.send(5, 1, operation::REQUEST, plain(), &[]);
    let (mut program, _) = listener.accept().unwrap();
    let response = bench.next().0;

    // From the host: as much as the guest has room for, and not a byte more.
    program.write_all(&[7; 50_000]).unwrap();
    let mut got = 0;
    while got < GUEST_ROOM as usize {
        got += bench.next().1.len();
    }
    assert_eq!(got, GUEST_ROOM as usize);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bench.sockets.receive(4096, &mut Vec::new()), None);
    let more = Header { forwarded: 100, ..plain() };
    bench.send(5, 1, operation::CREDIT_UPDATE, more, &[]);
    assert_eq!(bench.next().1.len(), 100);

    // From the guest: what the program does not read is kept up to the room announced.
    let mut sent = 0u32;
    let mut forwarded = response.forwarded;
    let mut data = Vec::new();
    while sent.wrapping_sub(forwarded) + 4096 <= response.room {
        bench.send(5, 1, operation::DATA, more, &[1; 4096]);
        sent += 4096;
        while let Some(header) = bench.sockets.receive(0, &mut data) {
            assert_eq!(header.operation, operation::CREDIT_UPDATE);
            forwarded = header.forwarded;
        }
    }
    // More than that ends the connection.
    bench.send(5, 1, operation::DATA, more, &[1; 65_536]);
    bench.send(5, 1, operation::DATA, more, &[1; 65_536]);
    bench.send(5, 1, operation::DATA, more, &[1; 65_536]);
    assert_eq!(bench.next().0.operation, operation::RESET);
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    drop(UnixListener::bind(&path).unwrap());
    let sockets = UnixSockets::new(&path, CID).unwrap();
    assert!(UnixSockets::new(&path, CID).is_err());
    drop(sockets);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(UnixSockets::new(&path, CID).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_packets_are_survived(
        packets in proptest::collection::vec(
            (0u64..5, 0u64..4, 0u32..3, 0u32..3, 0u16..3, 0u16..9, any::<(u32, u32, u32)>(),
             0usize..70_000),
            0..200,
        )
    ) {
        let bench = Bench::new();
        let listener = UnixListener::bind(bench.path("sock_1")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut programs = Vec::new();
        let mut data = Vec::new();
        for (source, destination, guest, host, kind, operation, (flags, room, forwarded), length)
            in packets
        {
            let header = Header {
                source_cid: source.max(2),
                destination_cid: destination,
                source_port: guest,
                destination_port: host,
                length: length as u32,
                kind: kind.max(1),
                operation,
                flags,
                room,
                forwarded,
            };
            bench.sockets.transmit(&header, &vec![0; length]);
            if let Ok((program, _)) = listener.accept() {
                programs.push(program);
            }
            bench.sockets.receive(length % 5000, &mut data);
            prop_assert!(data.len() <= length % 5000);
        }
    }
}
