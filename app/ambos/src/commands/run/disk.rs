//! The argument that describes a disk.

use crate::failure::Failure;
use ambos_block::{Format, ImageOptions};
use std::str::FromStr;

/// An image, and what the guest sees of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(super) image: ImageOptions,
    /// It is the medium of a CD-ROM drive.
    pub(super) cdrom: bool,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let path = parts.next().filter(|path| !path.is_empty()).ok_or("there is no file name")?;
        let mut disk = Self { image: ImageOptions::new(path), cdrom: false };
        let image = &mut disk.image;
        for option in parts {
            match option {
                "readonly" => image.read_only = true,
                "snapshot" => image.snapshot = true,
                "format=raw" => image.format = Some(Format::Raw),
                "format=qcow2" => image.format = Some(Format::Qcow2),
                "cache=direct" => image.direct = true,
                "cache=cached" => image.direct = false,
                "cdrom" => (disk.cdrom, image.read_only) = (true, true),
                _ => return Err(unknown(option)),
            }
        }
        if disk.image.read_only && disk.image.snapshot {
            return Err("a read-only disk needs no snapshot".to_owned());
        }
        Ok(disk)
    }
}

/// What is wrong with an option that is none.
fn unknown(option: &str) -> String {
    match option.split_once('=') {
        Some(("format", value)) => format!("there is no format \"{value}\" (raw, qcow2)"),
        Some(("cache", value)) => format!("there is no cache \"{value}\" (cached, direct)"),
        None if option.is_empty() => "an option is missing after a comma".to_owned(),
        _ => format!(
            "there is no option \"{option}\" (readonly, snapshot, cdrom, format=..., cache=...)"
        ),
    }
}

impl Disk {
    /// Opens the image.
    pub(super) fn open(&self) -> Result<ambos_machine::Disk, Failure> {
        let content = ambos_block::open(&self.image)
            .map_err(|error| Failure::usage_because("a disk cannot be used", error))?;
        Ok(ambos_machine::Disk { content, cdrom: self.cdrom })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_the_name() {
        let disk: Disk = "a.img".parse().unwrap();
        assert_eq!(disk, Disk { image: ImageOptions::new("a.img"), cdrom: false });
        let disk: Disk = "b,snapshot,format=qcow2,cache=direct".parse().unwrap();
        let image = ImageOptions {
            format: Some(Format::Qcow2),
            snapshot: true,
            direct: true,
            ..ImageOptions::new("b")
        };
        assert_eq!(disk, Disk { image, cdrom: false });
        let disk: Disk = "c.iso,cdrom".parse().unwrap();
        assert!(disk.cdrom && disk.image.read_only);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ",readonly", "a,", "a,fast", "a,format=vmdk", "a,readonly,snapshot"] {
            assert!(text.parse::<Disk>().is_err(), "{text}");
        }
    }
}
