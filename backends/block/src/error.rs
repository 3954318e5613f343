//! Why an image cannot be used.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why an image cannot be used. Every message names the image and, where there is one, the remedy.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file cannot be opened.
    #[error("cannot open the disk image {}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// It is neither a regular file nor a block device.
    #[error("the disk image {} is neither a file nor a block device", .0.display())]
    Kind(PathBuf),
    /// Somebody else has the image open in a way that does not go together with ours.
    #[error(
        "the disk image {} is in use by another virtual machine; \
         end that one, or use the image with `readonly` or `snapshot` in all of them",
        .0.display()
    )]
    InUse(PathBuf),
    /// The size is no whole number of sectors, or there is nothing.
    #[error(
        "the disk image {} has {size} bytes, which is not a positive multiple of 512; \
         `truncate --size=%512` makes it one",
        path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// A qcow2 image that nobody called one. What a guest writes to a raw disk must not decide how
    /// the monitor reads it the next time: a qcow2 header can name any file of the host.
    #[error(
        "{} begins like a qcow2 image; say `format=qcow2` if it is one, or `format=raw` if a guest \
         wrote that to its disk",
        .0.display()
    )]
    Ambiguous(PathBuf),
    /// It begins like an image of a format that is not read, which would be nonsense as a raw disk.
    #[error(
        "{} begins like a {name} image, which cannot be read; `qemu-img convert -O qcow2` makes one \
         that can, or say `format=raw` if a guest wrote that to its disk",
        path.display()
    )]
    Foreign {
        /// The image.
        path: PathBuf,
        /// The format.
        name: &'static str,
    },
    /// The image's format cannot be read.
    #[error("the disk image {} cannot be used as qcow2", path.display())]
    Format {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// A qcow2 image without all that its own tables name.
    #[error(
        "the disk image {} ends too early, so data of the disk are missing; it may not have been copied whole",
        .0.display()
    )]
    Truncated(PathBuf),
    /// The page cache cannot be bypassed there.
    #[error("the disk image {} is on a file system without direct access", path.display())]
    Direct {
        /// The image.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// There is no place for what a snapshot's guest writes.
    #[error("cannot make a temporary file for the writes to {}", path.display())]
    Temporary {
        /// The image.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
}
