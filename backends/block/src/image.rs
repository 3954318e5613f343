//! From a file's name to a disk's content.

use crate::{BlockBackend, OpenError, Overlay, Qcow2Image, RawImage, SECTOR, truncated};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How images of formats that are not read begin.
const FOREIGN: [(&[u8], &str); 5] = [
    (b"KDMV", "VMDK"),
    (b"conectix", "VHD"),
    (b"vhdxfile", "VHDX"),
    (b"<<< ", "VDI"),
    (b"QED\0", "QED"),
];

/// How an image holds the disk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One for one.
    Raw,
    /// As QEMU's qcow2 does.
    Qcow2,
}

/// An image and how to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// The image: a file or block device.
    pub path: PathBuf,
    /// Its format; if nobody says, `.qcow2` at the end of its name does, else it is raw.
    pub format: Option<Format>,
    /// Refuse to write.
    pub read_only: bool,
    /// Throw all writes away at the end.
    pub snapshot: bool,
    /// Bypass the host's page cache.
    pub direct: bool,
}

impl ImageOptions {
    /// The image at `path`, to be read and written.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { path, format: None, read_only: false, snapshot: false, direct: false }
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) writable: bool,
    pub(crate) direct: bool,
}

impl Access {
    pub(crate) fn open(self, path: &Path) -> io::Result<File> {
        let flags = if self.direct { libc::O_DIRECT } else { 0 };
        let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
        OpenOptions::new().read(true).write(self.writable).custom_flags(flags).open(path)
    }
}

/// Locks an open image: one who writes keeps everybody else out, until the file is closed.
pub(crate) fn lock(path: &Path, file: &File, writable: bool) -> Result<(), OpenError> {
    let result = if writable { file.try_lock() } else { file.try_lock_shared() };
    match result {
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.into())),
        // Some network file systems know no locks: nobody can be kept out there.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Opens an image.
///
/// The image is locked for as long as the result lives: several may read it, or one write it.
///
/// # Errors
///
/// [`OpenError`], with a remedy where there is one.
pub fn open(options: &ImageOptions) -> Result<Arc<dyn BlockBackend>, OpenError> {
    let ImageOptions { path, format, read_only, snapshot, direct } = options;
    let writable = !read_only && !snapshot;
    let failed = |source| OpenError::Open { path: path.clone(), source };
    let mut file = Access { writable, direct: false }.open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::Kind(path.clone()));
    }
    lock(path, &file, writable)?;
    let mut start = [0; 8];
    // A file that is too short for it is no image of any format.
    let _ = file.read_exact(&mut start);
    let is_qcow = start.starts_with(&truncated::MAGIC);
    let foreign = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic));
    let by_name = path.extension().is_some_and(|extension| extension == "qcow2");
    let format = match format {
        Some(format) => *format,
        None if by_name => Format::Qcow2,
        None if is_qcow => return Err(OpenError::Ambiguous(path.clone())),
        None => match foreign {
            Some((_, name)) => return Err(OpenError::Foreign { path: path.clone(), name }),
            None => Format::Raw,
        },
    };
    let open_direct = || {
        let opened = Access { writable, direct: true }.open(path);
        opened.map_err(|source| OpenError::Direct { path: path.clone(), source })
    };
    let image: Arc<dyn BlockBackend> = match format {
        Format::Raw => {
            let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
            if size == 0 || !size.is_multiple_of(SECTOR) {
                return Err(OpenError::Size { path: path.clone(), size });
            }
            let direct = direct.then(open_direct).transpose()?;
            Arc::new(RawImage::new(file, direct, size, !writable))
        }
        Format::Qcow2 => {
            if truncated::is_truncated(&file).map_err(failed)? {
                return Err(OpenError::Truncated(path.clone()));
            }
            if *direct {
                let other = open_direct()?;
                // A lock belongs to the descriptor: hand it over.
                drop(std::mem::replace(&mut file, other));
                lock(path, &file, writable)?;
            }
            let access = Access { writable, direct: *direct };
            Arc::new(Qcow2Image::new(path, file, access)?)
        }
    };
    if *snapshot && !read_only {
        let overlay = tempfile::tempfile().and_then(|file| Overlay::new(image, file));
        let failed = |source| OpenError::Temporary { path: path.clone(), source };
        return Ok(Arc::new(overlay.map_err(failed)?));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, behaves_like_a_disk};

    fn image(directory: &tempfile::TempDir, name: &str, bytes: &[u8]) -> ImageOptions {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        ImageOptions::new(path)
    }

    fn error(options: &ImageOptions) -> OpenError {
        open(options).err().unwrap()
    }

    #[test]
    fn one_writes_or_many_read() {
        let directory = tempfile::tempdir().unwrap();
        let write = image(&directory, "disk", &[0; 4096]);
        let read = ImageOptions { read_only: true, ..write.clone() };
        let snapshot = ImageOptions { snapshot: true, ..write.clone() };
        let writer = open(&write).unwrap();
        for options in [&write, &read, &snapshot] {
            assert!(matches!(error(options), OpenError::InUse(_)));
        }
        drop(writer);
        let readers = [open(&read).unwrap(), open(&snapshot).unwrap()];
        assert!(matches!(error(&write), OpenError::InUse(_)));
        assert!(readers[0].is_read_only() && !readers[1].is_read_only());
        drop(readers);
        open(&write).unwrap();
    }

    #[test]
    fn a_snapshot_leaves_the_image_alone() {
        let directory = tempfile::tempdir().unwrap();
        let options = ImageOptions { snapshot: true, ..image(&directory, "disk", &[3; 4096]) };
        let memory = Memory::new(4096);
        let disk = open(&options).unwrap();
        disk.write(512, &memory.slices(&[(0, 1024)])).unwrap();
        disk.flush().unwrap();
        disk.read(0, &memory.slices(&[(0, 2048)])).unwrap();
        assert_eq!(memory.get(0, 2048), [&[3; 512][..], &[0; 1024], &[3; 512]].concat());
        assert_eq!(std::fs::read(&options.path).unwrap(), [3; 4096]);
    }

    #[test]
    fn direct_access_is_the_same_disk() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let options = ImageOptions { direct: true, ..image(&directory, "disk", &[0; 1 << 18]) };
        match open(&options) {
            Ok(disk) => {
                assert!(!disk.is_cached());
                behaves_like_a_disk(&*disk, 7);
            }
            // Not all file systems have it.
            Err(error) => assert!(matches!(error, OpenError::Direct { .. }), "{error}"),
        }
    }

    #[test]
    fn unusable_images_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let odd = image(&directory, "odd", &[0; 1000]);
        assert!(matches!(error(&odd), OpenError::Size { size: 1000, .. }));
        let empty = image(&directory, "empty", &[]);
        assert!(matches!(error(&empty), OpenError::Size { size: 0, .. }));
        let gone = ImageOptions::new(directory.path().join("gone"));
        assert!(matches!(error(&gone), OpenError::Open { .. }));
        assert!(matches!(error(&ImageOptions::new("/dev/null")), OpenError::Kind(_)));
        let folder = ImageOptions { read_only: true, ..ImageOptions::new(directory.path()) };
        assert!(matches!(error(&folder), OpenError::Kind(_)));
    }

    #[test]
    fn images_of_other_formats_are_no_raw_disks() {
        let directory = tempfile::tempdir().unwrap();
        for (magic, name) in FOREIGN {
            let mut bytes = [0; 4096];
            bytes[..magic.len()].copy_from_slice(magic);
            let options = image(&directory, "disk", &bytes);
            assert!(error(&options).to_string().contains(name));
            open(&ImageOptions { format: Some(Format::Raw), ..options }).unwrap();
        }
    }

    #[test]
    fn a_guest_cannot_choose_the_format() {
        let directory = tempfile::tempdir().unwrap();
        let mut bytes = [0; 4096];
        bytes[..4].copy_from_slice(&truncated::MAGIC);
        let options = image(&directory, "disk.img", &bytes);
        assert!(matches!(error(&options), OpenError::Ambiguous(_)));
        open(&ImageOptions { format: Some(Format::Raw), ..options }).unwrap();
    }
}
