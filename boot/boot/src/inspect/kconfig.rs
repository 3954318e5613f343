//! Linux's configuration: inside the kernel (`CONFIG_IKCONFIG`) or in a file beside it.

use crate::bytes::find;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The largest configuration that is read, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Whether an option is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptionState {
    /// Part of the kernel.
    BuiltIn,
    /// A module.
    Module,
    /// Not there.
    Absent,
}

/// Where a configuration was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigSource {
    /// Inside the kernel.
    Embedded,
    /// In this file.
    File(PathBuf),
}

/// The options of a kernel that are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    source: ConfigSource,
    /// Options without their prefix, and whether they are modules.
    options: BTreeMap<String, OptionState>,
}

impl KernelConfig {
    /// Reads the text of a configuration.
    pub fn parse(source: ConfigSource, text: &str) -> Self {
        let option = |line: &str| {
            let (name, value) = line.trim().strip_prefix("CONFIG_")?.split_once('=')?;
            let state = match value {
                "y" => OptionState::BuiltIn,
                "m" => OptionState::Module,
                _ => return None,
            };
            Some((name.to_owned(), state))
        };
        Self { source, options: text.lines().filter_map(option).collect() }
    }

    /// The configuration inside an unpacked kernel.
    pub fn embedded(vmlinux: &[u8]) -> Option<Self> {
        // The kernel's own code to find it holds the marker too, without gzip data behind it.
        const START: &[u8] = b"IKCFG_ST\x1f\x8b";
        let packed = &vmlinux[find(vmlinux, START)? + START.len() - 2..];
        let mut text = Vec::new();
        let decoder = flate2::bufread::GzDecoder::new(packed);
        decoder.take(MAX_SIZE).read_to_end(&mut text).ok()?;
        Some(Self::parse(ConfigSource::Embedded, &String::from_utf8_lossy(&text)))
    }

    /// The configuration of the kernel file at `path`: `config-…` in the same directory, or of the
    /// same release in `/boot`.
    pub fn beside(path: &Path, release: Option<&str>) -> Option<Self> {
        let directory = path.parent()?;
        let name = path.file_name()?.to_str()?;
        let suffix = name.split_once('-').map(|(_, suffix)| suffix);
        // A release comes from the file: it must not lead to another directory.
        let release = release.filter(|release| !release.contains('/'));
        let mut candidates = Vec::new();
        candidates.extend(suffix.map(|suffix| directory.join(format!("config-{suffix}"))));
        candidates.extend(release.map(|release| directory.join(format!("config-{release}"))));
        candidates
            .extend(release.map(|release| Path::new("/boot").join(format!("config-{release}"))));
        candidates.into_iter().find_map(Self::read)
    }

    fn read(path: PathBuf) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let mut text = Vec::new();
        File::open(&path).ok()?.take(MAX_SIZE).read_to_end(&mut text).ok()?;
        Some(Self::parse(ConfigSource::File(path), &String::from_utf8_lossy(&text)))
    }

    /// Where it was found.
    pub fn source(&self) -> &ConfigSource {
        &self.source
    }

    /// The state of `option`, named without its `CONFIG_` prefix.
    pub fn state(&self, option: &str) -> OptionState {
        self.options.get(option).copied().unwrap_or(OptionState::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Compression;
    use crate::testing::pack;

    const TEXT: &str = "#\n# comment\nCONFIG_PCI=y\nCONFIG_E1000=m\n# CONFIG_KVM is not set\n\
                        CONFIG_NAME=\"y\"\n";

    #[test]
    fn options_are_built_in_modules_or_absent() {
        let config = KernelConfig::parse(ConfigSource::Embedded, TEXT);
        let states = ["PCI", "E1000", "KVM", "NAME"].map(|option| config.state(option));
        use OptionState::*;
        assert_eq!(states, [BuiltIn, Module, Absent, Absent]);
    }

    #[test]
    fn a_configuration_inside_the_kernel_is_found() {
        let mut kernel = b"code IKCFG_ST code".to_vec();
        assert_eq!(KernelConfig::embedded(&kernel), None);
        kernel.extend(b"IKCFG_ST");
        kernel.extend(pack(Compression::Gzip, TEXT.as_bytes()));
        kernel.extend(b"IKCFG_ED more code");
        let config = KernelConfig::embedded(&kernel).unwrap();
        assert_eq!(config.state("E1000"), OptionState::Module);
        assert_eq!(KernelConfig::embedded(b"IKCFG_ST\x1f\x8bnonsense"), None);
    }

    #[test]
    fn a_configuration_beside_the_kernel_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("vmlinuz-7.7-x");
        assert_eq!(KernelConfig::beside(&kernel, Some("../7.7-none")), None);
        let beside = directory.path().join("config-7.7-x");
        std::fs::write(&beside, TEXT).unwrap();
        let config = KernelConfig::beside(&kernel, None).unwrap();
        assert_eq!(config.source(), &ConfigSource::File(beside));
        let renamed = directory.path().join("kernel");
        assert_eq!(KernelConfig::beside(&renamed, None), None);
        assert!(KernelConfig::beside(&renamed, Some("7.7-x")).is_some());
    }
}
