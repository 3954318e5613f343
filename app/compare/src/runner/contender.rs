//! What is compared.

use ambos_boot::inspect::Technique;
use std::process::Command;

/// A technique of this monitor, or another monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// A technique of this monitor.
    Technique(Technique),
    /// QEMU.
    Qemu(Accelerator),
}

/// How QEMU runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// Its translator.
    Tcg,
    /// The processor's own virtualization.
    Kvm,
}

/// The other monitor's program.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

impl Contender {
    /// The column's name.
    pub fn name(self) -> String {
        match self {
            Self::Technique(technique) => technique.to_string(),
            Self::Qemu(Accelerator::Tcg) => "qemu-tcg".to_owned(),
            Self::Qemu(Accelerator::Kvm) => "qemu-kvm".to_owned(),
        }
    }

    /// What it is, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Technique(Technique::Full) => {
                "full virtualization: an unmodified guest on a complete PC"
            }
            Self::Technique(Technique::Hybrid) => "the same PC with virtio devices",
            Self::Technique(Technique::Para) => {
                "paravirtualization: hypercalls and front ends of the Xen ABI"
            }
            Self::Qemu(Accelerator::Tcg) => "QEMU's translator, one thread, virtio devices",
            Self::Qemu(Accelerator::Kvm) => "QEMU with hardware virtualization, virtio devices",
        }
    }

    /// QEMU's columns on this host: none where it is not installed.
    pub fn qemu() -> Vec<Self> {
        if Command::new(QEMU).arg("--version").output().is_err() {
            return Vec::new();
        }
        let mut columns = vec![Self::Qemu(Accelerator::Tcg)];
        let kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        columns.extend(kvm.is_ok().then_some(Self::Qemu(Accelerator::Kvm)));
        columns
    }
}
