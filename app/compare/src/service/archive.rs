//! What a service's guest has in its root file system.

use super::{Service, script};
use ambos_guest::packages::{self, BuildOptions};
use ambos_guest::{Cache, GuestError, Progress, Refresh, cpio};
use std::collections::BTreeSet;

/// Makes the archive of a service: its packages, its files, the script that runs it.
///
/// # Errors
///
/// [`GuestError`] if the packages cannot be had.
pub(crate) fn prepare(service: &Service, progress: &dyn Progress) -> Result<Vec<u8>, GuestError> {
    let mut bytes = Vec::new();
    if !service.packages.is_empty() {
        let options = BuildOptions {
            packages: service.packages.clone(),
            cache: Cache::of_user()?,
            refresh: Refresh::WhenStale,
        };
        let archive = packages::build(&options, progress)?;
        bytes = std::fs::read(&archive.path).map_err(|source| GuestError::File {
            action: "read",
            path: archive.path,
            source,
        })?;
        // The kernel finds the next archive at a multiple of four bytes.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let own = own(service).map_err(|error| GuestError::Initramfs(error.to_string()))?;
    bytes.extend(own);
    Ok(bytes)
}

fn own(service: &Service) -> std::io::Result<Vec<u8>> {
    let mut archive = cpio::Writer::new(Vec::new());
    let mut directories = BTreeSet::new();
    for file in &service.files {
        for (slash, _) in file.path.match_indices('/') {
            if directories.insert(&file.path[..slash]) {
                archive.directory(&file.path[..slash], 0o755)?;
            }
        }
        archive.file(&file.path, file.mode, &file.contents)?;
    }
    if directories.insert(script::DIRECTORY) {
        archive.directory(script::DIRECTORY, 0o755)?;
    }
    for (name, contents) in script::files(service) {
        let name = format!("{}/{name}", script::DIRECTORY);
        archive.file(&name, 0o755, contents.as_bytes())?;
    }
    archive.finish()
}
