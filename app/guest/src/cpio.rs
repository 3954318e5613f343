//! Writes cpio archives in the `newc` format, the one the Linux kernel unpacks an initramfs from
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! The archives are reproducible: owner is root, times are zero, inode numbers count up.

use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
/// Archives end on a multiple of this, as other tools pad them.
const BLOCK: u64 = 512;
/// Longest name the kernel accepts, including the terminating NUL (`PATH_MAX`).
const NAME_MAX: usize = 4096;

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes one archive to `W`.
///
/// Names are relative to the archive's root, without a leading slash; parents must be added before
/// what they contain.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    position: u64,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, position: 0, inode: 0 }
    }

    /// Adds a directory with the permission bits of `mode`.
    ///
    /// # Errors
    ///
    /// A name that cannot be stored, or a failed write.
    pub fn directory(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.entry(name, TYPE_DIRECTORY | mode & 0o7777, 2, (0, 0), &[])
    }

    /// Adds a regular file.
    ///
    /// # Errors
    ///
    /// A name that cannot be stored, contents of 4 GiB or more, or a failed write.
    pub fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, TYPE_FILE | mode & 0o7777, 1, (0, 0), contents)
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    ///
    /// A name that cannot be stored, or a failed write.
    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, TYPE_LINK | 0o777, 1, (0, 0), target.as_bytes())
    }

    /// Adds a character device node.
    ///
    /// # Errors
    ///
    /// A name that cannot be stored, or a failed write.
    pub fn character_device(
        &mut self,
        name: &str,
        mode: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(name, TYPE_CHARACTER_DEVICE | mode & 0o7777, 1, (major, minor), &[])
    }

    /// Ends the archive and hands back what it was written to.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header(TRAILER, 0, 1, (0, 0), 0)?;
        self.pad(BLOCK)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> io::Result<()> {
        if name.is_empty() || name.starts_with('/') || name.contains('\0') || name == TRAILER {
            return Err(invalid(format!("{name:?} cannot be a name in an archive")));
        }
        let size = u32::try_from(contents.len())
            .map_err(|_| invalid(format!("{name} is too large for the archive format")))?;
        self.inode += 1;
        self.header(name, mode, links, device, size)?;
        self.write(contents)?;
        self.pad(4)
    }

    fn header(
        &mut self,
        name: &str,
        mode: u32,
        links: u32,
        (major, minor): (u32, u32),
        size: u32,
    ) -> io::Result<()> {
        let name_size = name.len() + 1;
        if name_size > NAME_MAX {
            return Err(invalid(format!("a name of {} bytes is too long", name.len())));
        }
        let fields = [
            self.inode,
            mode,
            0, // uid
            0, // gid
            links,
            0, // modification time
            size,
            0, // device of the archive's own file system, major and minor
            0,
            major,
            minor,
            name_size as u32,
            0, // check sum, unused in this format
        ];
        let mut header = String::from(MAGIC);
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        let missing = self.position.next_multiple_of(alignment) - self.position;
        self.write(&[0; BLOCK as usize][..missing as usize])
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.directory("bin", 0o755).unwrap();
        writer.file("bin/tool", 0o755, b"#!/bin/sh\n").unwrap();
        writer.link("bin/alias", "tool").unwrap();
        writer.directory("dev", 0o755).unwrap();
        writer.character_device("dev/console", 0o600, 5, 1).unwrap();
        writer.file("empty", 0o644, b"").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn the_layout_is_that_of_newc() {
        let archive = sample();
        assert_eq!(archive.len() % 512, 0);
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[6..14], b"00000001", "inode");
        assert_eq!(&archive[14..22], b"000041ed", "mode of a directory");
        assert_eq!(&archive[94..102], b"00000004", "name size");
        assert_eq!(&archive[110..114], b"bin\0");
        // The header and name of 114 bytes are padded to 116; the next entry follows.
        assert_eq!(&archive[116..122], b"070701");
        let end = archive.windows(10).position(|bytes| bytes == b"TRAILER!!!").unwrap();
        assert!(archive[end + 10..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn names_that_the_kernel_would_misread_are_refused() {
        let mut writer = Writer::new(Vec::new());
        for name in ["", "/bin", "a\0b", "TRAILER!!!", &"x".repeat(4096)] {
            assert!(writer.file(name, 0o644, b"").is_err(), "{name:?}");
        }
    }

    /// The independent judge, where it is installed.
    #[test]
    fn the_cpio_tool_lists_what_was_written() {
        let Ok(mut tool) = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            eprintln!("cpio is not installed");
            return;
        };
        tool.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = tool.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> =
            listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let summary: Vec<(&str, &str)> =
            lines.iter().map(|words| (words[0], *words.last().unwrap())).collect();
        assert_eq!(
            summary,
            [
                ("drwxr-xr-x", "bin"),
                ("-rwxr-xr-x", "bin/tool"),
                ("lrwxrwxrwx", "tool"),
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
                ("-rw-r--r--", "empty"),
            ]
        );
        assert_eq!(lines[1][4], "10", "size");
        assert_eq!(lines[4][4..6], ["5,", "1"], "device numbers");
    }
}
