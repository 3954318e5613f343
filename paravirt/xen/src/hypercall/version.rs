//! `xen_version`: what hypervisor this is.

use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::version::{
    BUILD_ID, CAPABILITIES, CAPABILITIES_TEXT, CHANGESET, COMMANDLINE, COMPILE_INFO, EXTRAVERSION,
    GET_FEATURES, GUEST_HANDLE, MAJOR, MINOR, PAGESIZE, PLATFORM_PARAMETERS, VERSION,
};
use ambos_xen_abi::{Errno, Hypercall, features, mmu};

pub(super) struct XenVersion;

/// Writes `text`, NUL-padded to `size` bytes.
fn text(cpu: &mut dyn GuestCpu, at: u64, text: &str, size: usize) -> Outcome {
    let mut padded = text.as_bytes().to_vec();
    padded.resize(size, 0);
    bytes::write(cpu, at, &padded)?;
    DONE
}

impl Call for XenVersion {
    const NUMBER: Hypercall = Hypercall::XenVersion;

    fn serve(_: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        match command & 0xffff_ffff {
            VERSION => Ok(Answer::Value(u64::from(MAJOR) << 16 | u64::from(MINOR))),
            EXTRAVERSION => text(cpu, at, ".0-ambos", 16),
            // Compiler 64, by 16, domain 32, date 32.
            COMPILE_INFO => text(cpu, at, "", 64 + 16 + 32 + 32),
            CAPABILITIES => text(cpu, at, CAPABILITIES_TEXT, 1024),
            CHANGESET => text(cpu, at, "ambos", 64),
            PLATFORM_PARAMETERS => {
                bytes::write(cpu, at, &mmu::HYPERVISOR_START.to_le_bytes())?;
                DONE
            }
            GET_FEATURES => {
                let request = bytes::read::<8>(cpu, at)?;
                let submap = match bytes::u32_at(&request, 0) {
                    0 => features::OFFERED,
                    _ => return Err(Errno::EINVAL),
                };
                bytes::write(cpu, at.wrapping_add(4), &submap.to_le_bytes())?;
                DONE
            }
            PAGESIZE => Ok(Answer::Value(4096)),
            GUEST_HANDLE => text(cpu, at, "", 16),
            COMMANDLINE => text(cpu, at, "", 1024),
            BUILD_ID => Err(Errno::ENODEV),
            _ => Err(Errno::ENOSYS),
        }
    }
}
