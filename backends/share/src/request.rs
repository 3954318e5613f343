//! What a request may be: the rules that it must keep before the library sees it.

/// Bytes of the header of a request and of an answer.
pub(crate) const HEADER: usize = 40;
pub(crate) const ANSWER: usize = 16;
/// Bytes of a write request in front of the data.
pub(crate) const WRITE_HEADER: usize = 40;

/// Kinds of requests that are served.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const ACCESS: u32 = 34;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const LSEEK: u32 = 46;
}

/// Error numbers of Linux.
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const EIO: i32 = 5;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ENFILE: i32 = 23;
    pub(crate) const EROFS: i32 = 30;
    pub(crate) const ENOSYS: i32 = 38;
}

/// Access modes and flags of open files.
const O_ACCESS: u32 = 3;
const O_TRUNCATE: u32 = 0o1000;
const O_CREATE: u32 = 0o100;
/// Kinds of files in modes.
const MODE_KIND: u32 = 0o170_000;
const MODE_CHARACTERS: u32 = 0o020_000;
const MODE_BLOCKS: u32 = 0o060_000;
/// Offset of the flags in the body of [`opcode::INIT`], and those that are not offered: entries with
/// attributes, which would make files known to the guest that it did not ask for.
const INIT_FLAGS: usize = 12;
const READDIR_PLUS: u32 = 1 << 13 | 1 << 14;

/// Places in the answer to [`opcode::INIT`] behind its header.
mod init {
    pub(super) const FLAGS: usize = 12;
    pub(super) const MAX_WRITE: usize = 20;
    pub(super) const MAX_PAGES: usize = 28;
    /// Bytes that must be there.
    pub(super) const LENGTH: usize = 30;
    /// How many pages a request may have.
    pub(super) const SETS_PAGES: u32 = 1 << 22;
    /// Reading several pages at once, opening with truncation, writes of more than a page, dropping of
    /// cached pages when a file has changed, several operations in a directory at once.
    pub(super) const OFFERED: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 18 | SETS_PAGES;
    /// Pages of one request, which is what the library takes.
    pub(super) const PAGES: u32 = 256;
}

/// The header of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
}

impl Header {
    pub(crate) fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        Self {
            length: word(bytes, 0),
            opcode: word(bytes, 4),
            unique: long(bytes, 8),
            node: long(bytes, 16),
        }
    }

    /// Whether the guest waits for an answer.
    pub(crate) fn is_answered(&self) -> bool {
        !matches!(self.opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT)
    }

    /// Whether the answer is data of any length, which go to guest memory directly.
    pub(crate) fn answers_with_data(&self) -> bool {
        matches!(self.opcode, opcode::READ | opcode::READDIR)
    }
}

/// A number of four bytes at `offset`; zero past the end.
pub(crate) fn word(bytes: &[u8], offset: usize) -> u32 {
    let bytes = bytes.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_le_bytes)
}

/// A number of eight bytes at `offset`; zero past the end.
pub(crate) fn long(bytes: &[u8], offset: usize) -> u64 {
    u64::from(word(bytes, offset)) | u64::from(word(bytes, offset + 4)) << 32
}

/// Checks a request, whose body is `body`, and changes in it what is not offered.
///
/// # Errors
///
/// The number of the error that it is answered with.
pub(crate) fn check(header: &Header, body: &mut [u8], read_only: bool) -> Result<(), i32> {
    use opcode::*;
    let (offset, names) = match header.opcode {
        // After a link's name comes a text that may be anything.
        LOOKUP | UNLINK | RMDIR | SYMLINK => (0, 1),
        MKDIR | LINK => (8, 1),
        MKNOD | CREATE => (16, 1),
        RENAME => (8, 2),
        RENAME2 => (16, 2),
        _ => (0, 0),
    };
    let mut rest = body.get(offset..).unwrap_or(&[]);
    for _ in 0..names {
        let end = rest.iter().position(|byte| *byte == 0).ok_or(errno::EINVAL)?;
        if !is_name(&rest[..end]) {
            return Err(errno::EINVAL);
        }
        rest = &rest[end + 1..];
    }
    match header.opcode {
        INIT => {
            if let Some(place) = body.get_mut(INIT_FLAGS..INIT_FLAGS + 4) {
                let flags = word(place, 0) & !READDIR_PLUS;
                place.copy_from_slice(&flags.to_le_bytes());
            }
            Ok(())
        }
        OPEN if read_only && word(body, 0) & (O_ACCESS | O_TRUNCATE | O_CREATE) != 0 => {
            Err(errno::EROFS)
        }
        LOOKUP | FORGET | BATCH_FORGET | GETATTR | READLINK | OPEN | READ | STATFS | RELEASE
        | FSYNC | GETXATTR | LISTXATTR | FLUSH | OPENDIR | READDIR | RELEASEDIR | FSYNCDIR
        | ACCESS | INTERRUPT | DESTROY | LSEEK => Ok(()),
        SETATTR | SYMLINK | MKNOD | MKDIR | UNLINK | RMDIR | RENAME | RENAME2 | LINK | WRITE
        | SETXATTR | REMOVEXATTR | CREATE | FALLOCATE => {
            if read_only {
                return Err(errno::EROFS);
            }
            let kind = word(body, 0) & MODE_KIND;
            let is_device = kind == MODE_CHARACTERS || kind == MODE_BLOCKS;
            if header.opcode == MKNOD && is_device { Err(errno::EPERM) } else { Ok(()) }
        }
        _ => Err(errno::ENOSYS),
    }
}

/// Adds to the answer `answer` of [`opcode::INIT`] what the library can do and leaves to its users to
/// offer, as far as the guest whose request's body was `body` knows it.
pub(crate) fn offer(body: &[u8], answer: &mut [u8]) {
    let Some(answer) = answer.get_mut(ANSWER..).filter(|answer| answer.len() >= init::LENGTH)
    else {
        return;
    };
    let offered = word(body, INIT_FLAGS) & init::OFFERED;
    let flags = word(answer, init::FLAGS) | offered;
    answer[init::FLAGS..init::FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
    if offered & init::SETS_PAGES != 0 {
        let bytes = init::PAGES * 4096;
        answer[init::MAX_WRITE..init::MAX_WRITE + 4].copy_from_slice(&bytes.to_le_bytes());
        let pages = init::PAGES as u16;
        answer[init::MAX_PAGES..init::MAX_PAGES + 2].copy_from_slice(&pages.to_le_bytes());
    }
}

/// Whether this is the name of something in a directory, and not a path or the directory itself.
fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
}

/// An answer that is only an error.
pub(crate) fn failure(header: &Header, error: i32) -> [u8; ANSWER] {
    let mut answer = [0; ANSWER];
    answer[..4].copy_from_slice(&(ANSWER as u32).to_le_bytes());
    answer[4..8].copy_from_slice(&(-error).to_le_bytes());
    answer[8..].copy_from_slice(&header.unique.to_le_bytes());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_body(opcode: u32, body: &[u8], read_only: bool) -> Result<(), i32> {
        let header = Header { length: 0, opcode, unique: 0, node: 1 };
        check(&header, &mut body.to_vec(), read_only)
    }

    #[test]
    fn names_are_names() {
        for bad in [&b".\0"[..], b"..\0", b"\0", b"a/b\0", b"../x\0", b"/\0", b"endless", b""] {
            for (opcode, offset) in [
                (opcode::LOOKUP, 0),
                (opcode::UNLINK, 0),
                (opcode::RMDIR, 0),
                (opcode::SYMLINK, 0),
                (opcode::MKDIR, 8),
                (opcode::LINK, 8),
                (opcode::MKNOD, 16),
                (opcode::CREATE, 16),
                (opcode::RENAME, 8),
                (opcode::RENAME2, 16),
            ] {
                let body = [&vec![0; offset][..], bad].concat();
                assert_eq!(check_body(opcode, &body, false), Err(errno::EINVAL), "{opcode}");
                let second = [&vec![0; offset][..], b"name\0", bad].concat();
                let two = matches!(opcode, opcode::RENAME | opcode::RENAME2);
                assert_eq!(check_body(opcode, &second, false).is_err(), two, "{opcode}");
            }
        }
        assert_eq!(check_body(opcode::LOOKUP, b"...\0", true), Ok(()));
        assert_eq!(check_body(opcode::SYMLINK, b"name\0../../etc/passwd\0", false), Ok(()));
    }

    #[test]
    fn what_writes_is_refused_where_only_reading_is_allowed() {
        for flags in [1u32, 2, O_TRUNCATE, O_CREATE] {
            let body = flags.to_le_bytes();
            assert_eq!(check_body(opcode::OPEN, &body, true), Err(errno::EROFS));
            assert_eq!(check_body(opcode::OPEN, &body, false), Ok(()));
        }
        assert_eq!(check_body(opcode::OPEN, &[0; 8], true), Ok(()));
        for opcode in [opcode::WRITE, opcode::SETATTR, opcode::FALLOCATE, opcode::SETXATTR] {
            assert_eq!(check_body(opcode, &[0; 80], true), Err(errno::EROFS));
        }
    }

    #[test]
    fn devices_and_unknown_requests_are_refused() {
        let body = [&MODE_BLOCKS.to_le_bytes()[..], &[0; 12], b"name\0"].concat();
        assert_eq!(check_body(opcode::MKNOD, &body, false), Err(errno::EPERM));
        for opcode in [0, 7, 19, 31, 33, 39, 44, 47, 48, 49, 50, u32::MAX] {
            assert_eq!(check_body(opcode, &[0; 80], false), Err(errno::ENOSYS));
        }
    }
}
