//! A shared directory as guests use it, those included that want out of it.

use crate::request::{HEADER, long, opcode, word};
use crate::{Session, Share};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam};
use proptest::prelude::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

const ROOT: u64 = 1;
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x10_0000;
const ROOM: u32 = 0x10_0000;
/// Bytes in front of what an answer says.
const ANSWER: usize = 16;

struct Guest {
    session: Session,
    ram: Arc<GuestRam>,
    /// With `inside`, which is shared, and `outside`, which is not.
    directory: tempfile::TempDir,
}

impl Guest {
    fn new(read_only: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("inside")).unwrap();
        std::fs::create_dir(at("inside/sub")).unwrap();
        std::fs::create_dir(at("outside")).unwrap();
        std::fs::write(at("outside/secret"), "secret").unwrap();
        std::fs::write(at("inside/file"), "content").unwrap();
        symlink(at("outside"), at("inside/way")).unwrap();
        symlink(at("outside/secret"), at("inside/link")).unwrap();
        let share = Share::new(&at("inside"), read_only).unwrap();
        let ram = Arc::new(GuestRam::new(4 << 20).unwrap());
        let mut guest = Self { session: Session::new(&share, &ram).unwrap(), ram, directory };
        let mut init = [7u32, 31, 0x2_0000, 0xffff_ffff].map(u32::to_le_bytes).concat();
        init.resize(64, 0);
        let answer = guest.ask(opcode::INIT, 0, &init).unwrap();
        // Large writes, and no entries with attributes.
        assert_eq!((word(&answer, 20), word(&answer, 28) & 0xffff), (1 << 20, 256));
        assert_eq!(word(&answer, 12) & (1 << 13 | 1 << 14 | 1 << 22), 1 << 22);
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Makes a request; what it is answered with.
    fn ask(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let mut request = vec![0; HEADER];
        request[..4].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
        request[4..8].copy_from_slice(&opcode.to_le_bytes());
        request[8] = 99;
        request[16..24].copy_from_slice(&node.to_le_bytes());
        // The guest's user is some other than the host's.
        request[24..28].copy_from_slice(&1234u32.to_le_bytes());
        request.extend(body);
        self.ram.memory().write_slice(&request, GuestPhysAddr(REQUEST)).unwrap();
        let readable = [DmaRange { address: REQUEST, length: request.len() as u32 }];
        let writable = [DmaRange { address: REPLY, length: ROOM }];
        let written = self.session.serve(&readable, &writable).unwrap() as usize;
        let mut reply = vec![0; written];
        self.ram.memory().read_slice(&mut reply, GuestPhysAddr(REPLY)).unwrap();
        if written == 0 {
            return Ok(reply);
        }
        assert_eq!((word(&reply, 0) as usize, long(&reply, 8)), (written, 99));
        match word(&reply, 4) as i32 {
            0 => Ok(reply.split_off(ANSWER)),
            error => Err(-error),
        }
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        self.ask(opcode::LOOKUP, parent, format!("{name}\0").as_bytes())
            .map(|reply| long(&reply, 0))
    }

    fn open(&mut self, node: u64, flags: u32) -> Result<u64, i32> {
        let body = [flags.to_le_bytes(), [0; 4]].concat();
        self.ask(opcode::OPEN, node, &body).map(|reply| long(&reply, 0))
    }

    fn read(&mut self, node: u64, handle: u64, size: u32) -> Result<Vec<u8>, i32> {
        let mut body = vec![0; 40];
        body[..8].copy_from_slice(&handle.to_le_bytes());
        body[16..20].copy_from_slice(&size.to_le_bytes());
        self.ask(opcode::READ, node, &body)
    }

    fn write(&mut self, node: u64, handle: u64, data: &[u8]) -> Result<u32, i32> {
        let mut body = vec![0; 40];
        body[..8].copy_from_slice(&handle.to_le_bytes());
        body[16..20].copy_from_slice(&(data.len() as u32).to_le_bytes());
        body.extend(data);
        self.ask(opcode::WRITE, node, &body).map(|reply| word(&reply, 0))
    }

    fn create(&mut self, parent: u64, name: &str, flags: u32) -> Result<(u64, u64), i32> {
        let mut body = [flags, 0o100_666, 0, 0].map(u32::to_le_bytes).concat();
        body.extend(format!("{name}\0").bytes());
        let reply = self.ask(opcode::CREATE, parent, &body)?;
        Ok((long(&reply, 0), long(&reply, 128)))
    }
}

#[test]
fn files_are_read_and_written() {
    let mut guest = Guest::new(false);
    let file = guest.lookup(ROOT, "file").unwrap();
    let handle = guest.open(file, 2).unwrap();
    assert_eq!(guest.read(file, handle, 100).unwrap(), b"content");
    assert_eq!(guest.write(file, handle, b"CON"), Ok(3));
    let big = vec![7; 500_000];
    let (new, handle) = guest.create(ROOT, "new", 1).unwrap();
    assert_eq!(guest.write(new, handle, &big), Ok(500_000));
    assert_eq!(std::fs::read(guest.path("inside/file")).unwrap(), b"CONtent");
    assert_eq!(std::fs::read(guest.path("inside/new")).unwrap(), big);
    guest.ask(opcode::RELEASE, new, &[&handle.to_le_bytes()[..], &[0; 16]].concat()).unwrap();
    assert!(guest.read(new, handle, 1).is_err());
    assert_eq!(guest.lookup(ROOT, "gone"), Err(2));
}

#[test]
fn a_directory_for_reading_only_is_not_changed() {
    let mut guest = Guest::new(true);
    let file = guest.lookup(ROOT, "file").unwrap();
    assert_eq!(guest.open(file, 1), Err(30));
    assert_eq!(guest.open(file, 0o1000), Err(30));
    let handle = guest.open(file, 0).unwrap();
    assert_eq!(guest.read(file, handle, 100).unwrap(), b"content");
    assert_eq!(guest.write(file, handle, b"x"), Err(30));
    assert_eq!(guest.create(ROOT, "new", 1), Err(30));
    assert_eq!(guest.ask(opcode::UNLINK, ROOT, b"file\0"), Err(30));
    assert_eq!(guest.ask(opcode::SETATTR, file, &[0xff; 88]), Err(30));
    assert_eq!(std::fs::read_dir(guest.path("inside")).unwrap().count(), 4);
}

#[test]
fn no_way_leads_out() {
    let mut guest = Guest::new(false);
    let sub = guest.lookup(ROOT, "sub").unwrap();
    for (parent, name) in
        [(ROOT, ".."), (ROOT, "../outside"), (sub, ".."), (ROOT, "/etc"), (sub, ".")]
    {
        assert_eq!(guest.lookup(parent, name), Err(22), "{name}");
    }
    // Links are the guest's to follow, inside itself.
    let way = guest.lookup(ROOT, "way").unwrap();
    assert!(guest.lookup(way, "secret").is_err());
    assert!(guest.ask(opcode::OPENDIR, way, &[0; 8]).is_err());
    assert!(guest.create(way, "new", 1).is_err());
    let link = guest.lookup(ROOT, "link").unwrap();
    for flags in [0, 1, 2, 0o1000] {
        assert!(guest.open(link, flags).is_err(), "{flags:o}");
    }
    assert!(guest.create(ROOT, "link", 0o1002).is_err());
    // Mode, size, times: all that can be set.
    for valid in [1u32, 8, 16 | 32] {
        let mut body = vec![0; 88];
        body[..4].copy_from_slice(&valid.to_le_bytes());
        let _ = guest.ask(opcode::SETATTR, link, &body);
    }
    let target = guest.path("outside").into_os_string().into_string().unwrap();
    for body in [format!("a\0{target}\0"), "b\0../outside\0".to_owned()] {
        let made = guest.ask(opcode::SYMLINK, ROOT, body.as_bytes()).unwrap();
        assert!(guest.lookup(long(&made, 0), "secret").is_err());
    }
    let rename = [&ROOT.to_le_bytes()[..], b"file\0../outside/file\0"].concat();
    assert_eq!(guest.ask(opcode::RENAME, ROOT, &rename), Err(22));
    // A directory that someone moves out of the share keeps what is in it, and no more.
    std::fs::rename(guest.path("inside/sub"), guest.path("outside/sub")).unwrap();
    assert_eq!(guest.lookup(sub, ".."), Err(22));

    let outside = guest.path("outside/secret");
    assert_eq!(std::fs::read(&outside).unwrap(), b"secret");
    assert_ne!(outside.metadata().unwrap().permissions().mode() & 0o777, 0);
    assert_eq!(std::fs::read_dir(guest.path("outside")).unwrap().count(), 2);
}

#[test]
fn only_directories_are_shared() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    for name in ["file", "gone"] {
        assert!(Share::new(&directory.path().join(name), false).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_requests_are_survived(
        requests in proptest::collection::vec(
            (0u32..52, 0u64..6, proptest::collection::vec(
                prop_oneof![Just(0u8), Just(1), Just(b'f'), Just(b'/'), Just(b'.'), any::<u8>()],
                0..120)),
            0..60,
        )
    ) {
        let mut guest = Guest::new(false);
        for (opcode, node, body) in requests {
            let _ = guest.ask(opcode, node, &body);
        }
        prop_assert_eq!(std::fs::read(guest.path("outside/secret")).unwrap(), b"secret");
        prop_assert_eq!(std::fs::read_dir(guest.path("outside")).unwrap().count(), 1);
    }
}
