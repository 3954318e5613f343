//! Unpacks Debian packages: an `ar` archive that holds a compressed `tar` (deb(5)).
//!
//! Who made the package and whether it arrived whole has been checked before, by apt.

use crate::GuestError;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};

/// Most that the decompressor of one package may keep in memory, in bytes.
const MEMORY_LIMIT: u64 = 256 << 20;

/// Unpacks those files of the package `path` for which `wanted` holds into the directory `into`.
///
/// `wanted` is given the path without a leading `./` or `/`. Owners and times are not kept.
/// Returns how many files were unpacked.
///
/// # Errors
///
/// [`GuestError::Package`] if the file is not a Debian package or is damaged,
/// [`GuestError::File`] if it cannot be read.
pub fn unpack(
    path: &Path,
    into: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<usize, GuestError> {
    unpack_kinds(path, into, |kind, name| kind.is_file() && wanted(name))
}

/// As [`unpack`], with directories, links and hard links.
///
/// # Errors
///
/// As [`unpack`].
pub fn unpack_all(
    path: &Path,
    into: &Path,
    wanted: impl Fn(&Path) -> bool,
) -> Result<usize, GuestError> {
    unpack_kinds(path, into, |kind, name| {
        let known = kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link();
        known && wanted(name)
    })
}

fn unpack_kinds(
    path: &Path,
    into: &Path,
    wanted: impl Fn(tar::EntryType, &Path) -> bool,
) -> Result<usize, GuestError> {
    let file = File::open(path).map_err(GuestError::file("read", path))?;
    let mut archive = ar::Archive::new(BufReader::with_capacity(1 << 16, file));
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(|error| GuestError::package(path, error))?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if let Some(compression) = name.trim_end_matches('/').strip_prefix("data.tar") {
            let data = decompress(member, compression)
                .map_err(|error| GuestError::package(path, error))?;
            return unpack_tar(data, into, wanted)
                .map_err(|error| GuestError::package(path, error));
        }
    }
    Err(GuestError::package(path, "it has no data member"))
}

fn decompress<'a>(
    member: impl Read + 'a,
    compression: &str,
) -> Result<Box<dyn Read + 'a>, std::io::Error> {
    Ok(match compression {
        "" => Box::new(member),
        ".gz" => Box::new(flate2::read::GzDecoder::new(member)),
        ".xz" | ".lzma" => {
            let stream = liblzma::stream::Stream::new_auto_decoder(MEMORY_LIMIT, 0)?;
            Box::new(liblzma::read::XzDecoder::new_stream(member, stream))
        }
        ".zst" => Box::new(zstd::stream::read::Decoder::new(member)?),
        other => {
            return Err(std::io::Error::other(format!("unknown compression {other:?}")));
        }
    })
}

fn unpack_tar(
    data: impl Read,
    into: &Path,
    wanted: impl Fn(tar::EntryType, &Path) -> bool,
) -> Result<usize, std::io::Error> {
    let mut archive = tar::Archive::new(data);
    archive.set_preserve_mtime(false);
    let mut unpacked = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let name: std::path::PathBuf =
            path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        // `unpack_in` refuses, by returning false, names that would lead out of the directory.
        if wanted(entry.header().entry_type(), &name) && entry.unpack_in(into)? {
            unpacked += 1;
        }
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            // Written past the builder's own checks, so that hostile names can be tried.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn package(directory: &Path, suffix: &str, data: &[u8]) -> std::path::PathBuf {
        let path = directory.join("sample.deb");
        let mut builder = ar::Builder::new(File::create(&path).unwrap());
        for (name, contents) in
            [("debian-binary", &b"2.0\n"[..]), ("control.tar", &tarball(&[])), (suffix, data)]
        {
            let header = ar::Header::new(name.as_bytes().to_vec(), contents.len() as u64);
            builder.append(&header, contents).unwrap();
        }
        path
    }

    const FILES: &[(&str, &[u8])] =
        &[("./boot/vmlinuz-1", b"kernel"), ("./usr/share/doc/readme", b"text")];

    #[test]
    fn every_compression_is_understood() {
        let plain = tarball(FILES);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let cases = [
            ("data.tar.gz", gz.finish().unwrap()),
            ("data.tar.xz", xz.finish().unwrap()),
            ("data.tar.zst", zstd::encode_all(&plain[..], 1).unwrap()),
            ("data.tar", plain),
        ];
        for (name, data) in cases {
            let directory = tempfile::tempdir().unwrap();
            let path = package(directory.path(), name, &data);
            let into = directory.path().join("out");
            std::fs::create_dir(&into).unwrap();
            let count = unpack(&path, &into, |name| name.starts_with("boot")).unwrap();
            assert_eq!(count, 1, "{name}");
            assert_eq!(std::fs::read(into.join("boot/vmlinuz-1")).unwrap(), b"kernel", "{name}");
            assert!(!into.join("usr").exists(), "{name}");
        }
    }

    #[test]
    fn files_stay_inside_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let data = tarball(&[("../escaped", b"x"), ("a/../../escaped", b"x"), ("/rooted", b"y")]);
        let path = package(directory.path(), "data.tar", &data);
        let into = directory.path().join("out");
        std::fs::create_dir(&into).unwrap();
        unpack(&path, &into, |_| true).unwrap();
        assert!(!directory.path().join("escaped").exists());
        assert_eq!(std::fs::read(into.join("rooted")).unwrap(), b"y");
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let xz = {
            let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
            xz.write_all(&tarball(FILES)).unwrap();
            xz.finish().unwrap()
        };
        let whole = package(directory.path(), "data.tar.xz", &xz);
        let bytes = std::fs::read(&whole).unwrap();
        for length in [0, 7, 60, 100, bytes.len() - 40] {
            std::fs::write(&whole, &bytes[..length]).unwrap();
            let error = unpack(&whole, directory.path(), |_| true).unwrap_err();
            assert!(error.to_string().contains("sample.deb"), "{length}: {error}");
        }
        std::fs::write(&whole, vec![0x5a; 4096]).unwrap();
        assert!(unpack(&whole, directory.path(), |_| true).is_err());
        let odd = package(directory.path(), "data.tar.rar", b"");
        assert!(unpack(&odd, directory.path(), |_| true).is_err());
    }
}
