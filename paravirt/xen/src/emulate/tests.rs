use crate::testing::{Guest, WINDOW};
use ambos_vcpu::{Exception, GuestCpu, Resume, Supervisor, Trap};
use ambos_x86::cpuid::leaf1_ecx;
use ambos_x86::gpr::{RAX, RBX, RCX, RDX};
use ambos_x86::{Cr4, Efer, Vector, msr};
use ambos_xen_abi::Hypercall;

/// Lets the guest run into `vector` at `code`; the result is whether the instruction was emulated.
fn run(guest: &mut Guest, vector: Vector, code: &[u8]) -> bool {
    let at = WINDOW + 0x2000;
    guest.cpu.write(at, code).unwrap();
    guest.cpu.state.rip = at;
    let exception = Exception { vector, error: 0, address: 0 };
    let resume = guest.vcpu.trap(&mut guest.cpu, Trap::Exception(exception));
    resume == Resume::Run && guest.cpu.state.rip == at + code.len() as u64
}

/// UD2, "xen", CPUID.
const FORCED: [u8; 7] = [0x0f, 0x0b, b'x', b'e', b'n', 0x0f, 0xa2];

#[test]
fn kernels_find_that_extended_states_are_on() {
    let mut guest = Guest::new();
    for turned_on in [false, true] {
        let control = &mut guest.cpu.state.control;
        control.cr4 = if turned_on { Cr4::OSXSAVE.bits() } else { 0 };
        guest.cpu.state.gpr[RAX] = 1;
        assert!(run(&mut guest, Vector::InvalidOpcode, &FORCED));
        assert_ne!(guest.cpu.state.gpr[RCX] as u32 & leaf1_ecx::OSXSAVE, 0, "{turned_on}");
    }
}

#[test]
fn areas_of_extended_states_have_a_size_in_both_formats() {
    let mut guest = Guest::new();
    for (subleaf, size) in [(0, 576), (1, 577)] {
        let gpr = &mut guest.cpu.state.gpr;
        (gpr[RAX], gpr[RCX]) = (0xd, subleaf);
        assert!(run(&mut guest, Vector::InvalidOpcode, &FORCED));
        assert_eq!(guest.cpu.state.gpr[RBX], size);
    }
}

#[test]
fn of_efer_only_what_means_nothing_here_can_be_changed() {
    const WRMSR: [u8; 2] = [0x0f, 0x30];
    let mut guest = Guest::new();
    let before = guest.cpu.state.control.efer;
    for (changed, accepted) in [(0, true), (Efer::AUTOIBRS.bits(), true), (Efer::NXE.bits(), false)]
    {
        let value = guest.cpu.state.control.efer ^ changed;
        let gpr = &mut guest.cpu.state.gpr;
        gpr[RCX] = msr::IA32_EFER.into();
        (gpr[RAX], gpr[RDX]) = (value & 0xffff_ffff, value >> 32);
        assert_eq!(run(&mut guest, Vector::GeneralProtection, &WRMSR), accepted, "{changed:#x}");
    }
    assert_eq!(guest.cpu.state.control.efer, before ^ Efer::AUTOIBRS.bits());
}

#[test]
fn instructions_are_read_as_far_as_there_is_code() {
    const CLI: u8 = 0xfa;
    // The last page that is there, and one in between.
    let last = WINDOW + (Guest::new().domain.layout.guest_frames << 12);
    for (end, code) in [(last, &[CLI][..]), (WINDOW + 0x3002, &FORCED), (last, &FORCED)] {
        let mut guest = Guest::new();
        let at = end - code.len() as u64;
        guest.vcpu.iopl = 1 << 12;
        guest.cpu.write(at, code).unwrap();
        guest.cpu.state.rip = at;
        let vector = if code == FORCED { Vector::InvalidOpcode } else { Vector::GeneralProtection };
        let exception = Exception { vector, error: 0, address: 0 };
        let resume = guest.vcpu.trap(&mut guest.cpu, Trap::Exception(exception));
        assert_eq!((resume, guest.cpu.state.rip), (Resume::Run, end), "{code:x?}");
    }
}

#[test]
fn the_engine_knows_who_may_change_the_interrupt_flag() {
    const SET_IOPL: u64 = 6;
    let mut guest = Guest::new();
    assert!(!guest.cpu.ignores_interrupt_flag);
    for (level, user) in [(1, false), (0, false), (3, true), (2, false)] {
        let at = guest.put(&[level]);
        assert_eq!(guest.call(Hypercall::PhysdevOp, &[SET_IOPL, at]), 0);
        assert_eq!(guest.cpu.ignores_interrupt_flag, level > 0, "{level}");
        for permitted in [user, level > 0] {
            guest.vcpu.toggle_mode(&mut guest.cpu);
            assert_eq!(guest.vcpu.trap(&mut guest.cpu, Trap::Nmi), Resume::Run);
            assert_eq!(guest.cpu.ignores_interrupt_flag, permitted, "{level}");
        }
    }
}
