//! Hypercall numbers (`public/xen.h`).

macro_rules! hypercalls {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal;)*) => {
        /// A hypercall.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each variant's label says what it is")]
        pub enum Hypercall {
            $($(#[$doc])* $name = $number,)*
        }

        impl Hypercall {
            /// All of them with their names in the header.
            pub const TABLE: &'static [(Self, &'static str)] = &[$((Self::$name, $label),)*];
        }
    };
}

hypercalls! {
    SetTrapTable = 0, "set_trap_table";
    MmuUpdate = 1, "mmu_update";
    SetGdt = 2, "set_gdt";
    StackSwitch = 3, "stack_switch";
    SetCallbacks = 4, "set_callbacks";
    FpuTaskswitch = 5, "fpu_taskswitch";
    SchedOpCompat = 6, "sched_op_compat";
    PlatformOp = 7, "platform_op";
    SetDebugreg = 8, "set_debugreg";
    GetDebugreg = 9, "get_debugreg";
    UpdateDescriptor = 10, "update_descriptor";
    MemoryOp = 12, "memory_op";
    Multicall = 13, "multicall";
    UpdateVaMapping = 14, "update_va_mapping";
    SetTimerOp = 15, "set_timer_op";
    EventChannelOpCompat = 16, "event_channel_op_compat";
    XenVersion = 17, "xen_version";
    ConsoleIo = 18, "console_io";
    PhysdevOpCompat = 19, "physdev_op_compat";
    GrantTableOp = 20, "grant_table_op";
    VmAssist = 21, "vm_assist";
    UpdateVaMappingOtherdomain = 22, "update_va_mapping_otherdomain";
    Iret = 23, "iret";
    VcpuOp = 24, "vcpu_op";
    SetSegmentBase = 25, "set_segment_base";
    MmuextOp = 26, "mmuext_op";
    XsmOp = 27, "xsm_op";
    NmiOp = 28, "nmi_op";
    SchedOp = 29, "sched_op";
    CallbackOp = 30, "callback_op";
    XenoprofOp = 31, "xenoprof_op";
    EventChannelOp = 32, "event_channel_op";
    PhysdevOp = 33, "physdev_op";
    HvmOp = 34, "hvm_op";
    Sysctl = 35, "sysctl";
    Domctl = 36, "domctl";
    KexecOp = 37, "kexec_op";
    TmemOp = 38, "tmem_op";
    ArgoOp = 39, "argo_op";
    XenpmuOp = 40, "xenpmu_op";
    DmOp = 41, "dm_op";
    HypfsOp = 42, "hypfs_op";
}

impl Hypercall {
    /// One more than the highest number there is room for in the hypercall page.
    pub const SLOTS: usize = 64;

    /// The hypercall with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::TABLE.iter().find(|(call, _)| *call as u64 == number).map(|(call, _)| *call)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(call, _)| *call == self).map_or("unknown", |(_, name)| name)
    }
}

/// Bytes of one entry of the hypercall page.
pub const PAGE_ENTRY: usize = 32;

/// The content of the hypercall page of a 64-bit PV guest: for each call a stub that saves RCX and
/// R11, which SYSCALL destroys.
pub fn page() -> Vec<u8> {
    let mut page = vec![0xcc; 4096];
    for (number, entry) in page.chunks_exact_mut(PAGE_ENTRY).enumerate().take(Hypercall::SLOTS) {
        let [low, high] = (number as u16).to_le_bytes();
        let stub: &[u8] = if number == Hypercall::Iret as usize {
            // push rcx; push r11; push rax; mov eax, number; syscall
            &[0x51, 0x41, 0x53, 0x50, 0xb8, low, high, 0, 0, 0x0f, 0x05]
        } else {
            // push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
            &[0x51, 0x41, 0x53, 0xb8, low, high, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3]
        };
        entry[..stub.len()].copy_from_slice(stub);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_go_together() {
        for (call, name) in Hypercall::TABLE {
            assert_eq!(Hypercall::from_number(*call as u64), Some(*call));
            assert_eq!(call.name(), *name);
        }
        assert_eq!(Hypercall::from_number(11), None);
        assert_eq!(Hypercall::from_number(1 << 32), None);
    }

    #[test]
    fn the_page_has_a_stub_for_each_call() {
        let page = page();
        assert_eq!(page.len(), 4096);
        assert_eq!(page[29 * 32 + 3..][..5], [0xb8, 29, 0, 0, 0]);
        assert_eq!(page[23 * 32 + 4..][..5], [0xb8, 23, 0, 0, 0]);
    }
}
