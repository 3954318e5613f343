//! Directories of the host that guests mount by virtiofs.
//!
//! [`Share`] is a directory and what a guest may do there; [`Session`] answers a guest's requests,
//! which are FUSE's. What they mean is `fuse-backend-rs`'s business: it keeps a descriptor for each
//! file that the guest knows and never follows a link for it.
//!
//! # What a guest can do
//!
//! The library is made for guests that it need not trust, and is not trusted here either:
//! [`request`] looks at every request first. Names must be names, so that no path leads out of the
//! directory; what is not known, or writes where only reading is allowed, is refused; devices cannot
//! be made. All files belong to the user who runs the monitor, whoever the guest's user is, and are
//! made under that user's file mode creation mask. Files that a guest keeps open or known are limited
//! by half of what the monitor may open. A panic costs the guest its session.
//!
//! # Copies
//!
//! Data that are read or written move between file and guest memory in one system call. The rest of a
//! request is copied before it is looked at, so that the guest cannot change it afterwards.

mod handles;
mod request;
mod session;
#[cfg(test)]
mod tests;
mod window;

pub use session::Session;

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a directory cannot be shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// It is not there, or it is no directory.
    #[error("cannot share the directory {path}")]
    Directory {
        /// What was to be shared.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// A path that is not text.
    #[error("the path {0} is not UTF-8")]
    Path(PathBuf),
    /// The guest's memory cannot be mapped once more.
    #[error("cannot map the guest's memory for a shared directory: {0}")]
    Memory(String),
}

/// A directory of the host, and what guests may do there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Without links.
    directory: String,
    read_only: bool,
}

impl Share {
    /// Shares `directory`, for reading only if `read_only` holds.
    ///
    /// # Errors
    ///
    /// [`ShareError`]: usually there is no such directory.
    pub fn new(directory: &Path, read_only: bool) -> Result<Self, ShareError> {
        let error = |source| ShareError::Directory { path: directory.to_owned(), source };
        let canonical = directory.canonicalize().map_err(error)?;
        // Fails for what is no directory, and for what may not be looked at.
        std::fs::read_dir(&canonical).map_err(error)?;
        match canonical.into_os_string().into_string() {
            Ok(directory) => Ok(Self { directory, read_only }),
            Err(path) => Err(ShareError::Path(path.into())),
        }
    }
}
