//! `cargo xtask layers`: dependencies between the crates point downwards only.
//!
//! A crate's layer follows from the folder it is in. It may use crates of lower layers, and of its
//! own layer only what the table says.

use crate::workspace;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of crates.
struct Folder {
    name: &'static str,
    layer: u8,
    /// Folders of the same layer whose crates it may use.
    beside: &'static [&'static str],
}

/// The layers, lowest first.
const FOLDERS: &[Folder] = &[
    Folder { name: "support", layer: 0, beside: &[] },
    Folder { name: "specs", layer: 1, beside: &["specs"] },
    Folder { name: "contracts", layer: 2, beside: &["contracts"] },
    Folder { name: "devices", layer: 3, beside: &["backends"] },
    Folder { name: "paravirt", layer: 3, beside: &["backends"] },
    Folder { name: "backends", layer: 3, beside: &[] },
    Folder { name: "engines", layer: 4, beside: &["engines"] },
    Folder { name: "boot", layer: 4, beside: &[] },
    Folder { name: "machine", layer: 5, beside: &[] },
    Folder { name: "app", layer: 6, beside: &["app"] },
    Folder { name: "xtask", layer: 7, beside: &[] },
];

/// What `cargo metadata` tells, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build` or nothing.
    kind: Option<String>,
    /// The directory of a crate of this workspace.
    path: Option<PathBuf>,
}

/// Checks the workspace.
pub(crate) fn run() -> Result<(), String> {
    let root = workspace::root();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("cannot read what cargo metadata prints: {error}"))?;
    let complaints = check(&metadata, root);
    if complaints.is_empty() {
        println!("layers: {} crates, all dependencies point downwards", metadata.packages.len());
        Ok(())
    } else {
        Err(complaints.join("\n"))
    }
}

/// A sentence for each dependency that does not point downwards.
fn check(metadata: &Metadata, root: &Path) -> Vec<String> {
    let mut complaints = Vec::new();
    for package in &metadata.packages {
        let Some(from) = folder(&package.manifest_path, root) else {
            complaints.push(format!("{} is in no layer's folder", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(path) = &dependency.path else { continue };
            let Some(to) = folder(path, root) else {
                complaints.push(format!("{} is in no layer's folder", dependency.name));
                continue;
            };
            let test_only = dependency.kind.as_deref() == Some("dev");
            if !allowed(from, to, test_only) {
                complaints.push(format!(
                    "{} ({}, layer {}) must not depend on {} ({}, layer {})",
                    package.name, from.name, from.layer, dependency.name, to.name, to.layer
                ));
            }
        }
    }
    complaints
}

/// Tests may also use what is beside them.
fn allowed(from: &Folder, to: &Folder, test_only: bool) -> bool {
    to.layer < from.layer || to.layer == from.layer && (test_only || from.beside.contains(&to.name))
}

fn folder(path: &Path, root: &Path) -> Option<&'static Folder> {
    let first = path.strip_prefix(root).ok()?.components().next()?;
    FOLDERS.iter().find(|folder| first.as_os_str() == folder.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(package: &str, dependency: &str, kind: &str) -> usize {
        let kind = if kind.is_empty() { "null".to_owned() } else { format!("{kind:?}") };
        let json = format!(
            r#"{{"packages": [{{
                "name": "a",
                "manifest_path": "/w/{package}/Cargo.toml",
                "dependencies": [
                    {{"name": "b", "kind": {kind}, "path": "/w/{dependency}"}},
                    {{"name": "serde", "kind": null}}
                ]
            }}]}}"#
        );
        check(&serde_json::from_str(&json).unwrap(), Path::new("/w")).len()
    }

    #[test]
    fn downwards_is_allowed() {
        assert_eq!(complaints("app/ambos", "support/hostcode", ""), 0);
        assert_eq!(complaints("engines/translate", "contracts/vcpu", "build"), 0);
        assert_eq!(complaints("xtask", "machine/machine", ""), 0);
    }

    #[test]
    fn upwards_is_not() {
        assert_eq!(complaints("contracts/vcpu", "engines/interpret", ""), 1);
        assert_eq!(complaints("support/hostcode", "app/ambos", "dev"), 1);
        assert_eq!(complaints("machine/machine", "xtask", ""), 1);
    }

    #[test]
    fn beside_is_allowed_where_the_table_says() {
        assert_eq!(complaints("engines/translate", "engines/interpret", ""), 0);
        assert_eq!(complaints("app/ambos", "app/guest", ""), 0);
        assert_eq!(complaints("devices/virtio", "backends/block", ""), 0);
        assert_eq!(complaints("devices/virtio", "devices/pc", ""), 1);
        assert_eq!(complaints("backends/block", "devices/pc", ""), 1);
        assert_eq!(complaints("boot/boot", "engines/interpret", ""), 1);
        assert_eq!(complaints("boot/boot", "engines/interpret", "dev"), 0);
    }

    #[test]
    fn every_crate_has_a_layer() {
        assert_eq!(complaints("misc/things", "specs/x86", ""), 1);
        assert_eq!(complaints("app/ambos", "misc/things", ""), 1);
    }
}
