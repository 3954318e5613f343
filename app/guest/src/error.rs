//! Why a guest could not be had.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a guest could not be had. Each message says what failed and, where the user can mend it, how.
#[derive(Debug, Error)]
pub enum GuestError {
    /// Neither of the environment variables that place the cache directory is set.
    #[error("no place for the guest cache: set AMBOS_CACHE to a directory")]
    NoCacheDirectory,
    /// A file or directory of the cache could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "read", "create", …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The host has no apt.
    #[error(
        "{tool} is not on this host, so no guest can be fetched: \
         boot your own with `ambos run --kernel FILE --initrd FILE`"
    )]
    AptMissing {
        /// The tool that was looked for.
        tool: &'static str,
    },
    /// An apt tool could not be started or reported failure.
    #[error("apt could not {action}: {reason}")]
    Apt {
        /// What was tried: "refresh its package lists", …
        action: String,
        /// Apt's own words.
        reason: String,
    },
    /// The host's package sources do not offer a package.
    #[error(
        "the package sources of this host do not offer {package}: \
         boot your own kernel with `ambos run --kernel FILE --initrd FILE`"
    )]
    NoPackage {
        /// The package's name.
        package: String,
    },
    /// The host's package sources do not offer a package that is to be added to a guest.
    #[error("the package sources of this host do not offer a package {package}; check its name")]
    UnknownPackage {
        /// The package's name.
        package: String,
    },
    /// A package is not what a Debian package should be.
    #[error("unusable package {}: {reason}", path.display())]
    Package {
        /// The package file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An initramfs could not be put together.
    #[error("cannot build the initramfs: {0}")]
    Initramfs(String),
    /// A guest was named that is not in the cache.
    #[error("no guest named {name:?} in the cache; `ambos guest list` shows those there are")]
    NoSuchGuest {
        /// The name given.
        name: String,
    },
}

impl GuestError {
    /// An adapter for `map_err`: `action` on `path` failed.
    pub(crate) fn file<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    /// A package file that cannot be used.
    pub(crate) fn package(path: &Path, reason: impl ToString) -> Self {
        Self::Package { path: path.to_owned(), reason: reason.to_string() }
    }
}
