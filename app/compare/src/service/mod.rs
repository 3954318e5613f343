//! Services: workloads of anyone's own, described in a file.
//!
//! [`definition`] reads the file, [`script`] makes of it what the guest runs, [`archive`] what its root
//! file system holds, and [`measure`] takes what comes out. Some are shipped ([`SHIPPED`]).

use crate::CompareError;
use std::path::Path;

mod archive;
mod definition;
pub(crate) mod measure;
mod script;

pub(crate) use archive::prepare;
pub use definition::{DefinitionError, FileEntry, Load, Metric, Place, Ready, Service};

/// Services that come with the program: name and description.
pub const SHIPPED: &[(&str, &str)] = &[
    ("compile", include_str!("../../services/compile.toml")),
    ("nginx", include_str!("../../services/nginx.toml")),
    ("openssl", include_str!("../../services/openssl.toml")),
    ("redis", include_str!("../../services/redis.toml")),
    ("sqlite", include_str!("../../services/sqlite.toml")),
];

/// The shipped service of this name.
pub fn shipped(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The service of a file, or a shipped one by its name.
///
/// # Errors
///
/// [`CompareError`] if there is none, or it makes no sense.
pub fn load(name: &str) -> Result<Service, CompareError> {
    let broken = |source| CompareError::Service { name: name.to_owned(), source };
    let path = Path::new(name);
    if let (Some(text), false) = (shipped(name), path.is_file()) {
        return Service::parse(text, Path::new(".")).map_err(broken);
    }
    let text = std::fs::read_to_string(path)
        .map_err(|source| CompareError::Read { path: path.to_owned(), source })?;
    Service::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(broken)
}

#[cfg(test)]
mod tests;
