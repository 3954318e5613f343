use crate::testing::{Guest, TABLES, WINDOW};
use ambos_vcpu::{Request, Resume, Stop};
use ambos_x86::gpr::RAX;
use ambos_x86::paging::{PCD, PRESENT, USER, WRITE};
use ambos_xen_abi::mmu::{HYPERVISOR_START, ext, va};
use ambos_xen_abi::{Errno, Hypercall as H, event, features, memory, sched, vcpu, version};

/// Addresses that no hypercall may read from or write to.
const BAD: [u64; 4] = [8, HYPERVISOR_START, u64::MAX - 3, WINDOW - 4];

fn error(error: Errno) -> i64 {
    error.result() as i64
}

#[test]
fn unknown_calls_fail_and_are_listed() {
    let mut guest = Guest::new();
    for number in [11, 43, 63, 64, 1 << 32, u64::MAX] {
        guest.trap(number, &[1, 2, 3]);
        assert_eq!(guest.cpu.state.gpr[RAX], Errno::ENOSYS.result(), "{number}");
    }
    assert_eq!(guest.call(H::HvmOp, &[0]), error(Errno::ENOSYS));
    assert!(guest.unserved.entries().iter().any(|entry| entry.what == "hypercall hvm_op"));
}

#[test]
fn every_call_survives_hostile_arguments() {
    let mut guest = Guest::new();
    let values = [0, 1, 2, 3, 7, 8, 0x1000, WINDOW, WINDOW + 0xffc, 1 << 31, u64::MAX]
        .into_iter()
        .chain(BAD);
    let values: Vec<u64> = values.collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for (call, _) in H::TABLE.iter().filter(|(call, _)| *call != H::Iret) {
        for _ in 0..80 {
            let arguments: [u64; 6] = std::array::from_fn(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                values[random as usize % values.len()]
            });
            guest.trap(*call as u64, &arguments);
        }
        // Whatever the guest did to itself: the next call starts afresh.
        guest = Guest::new();
    }
}

#[test]
fn page_tables_cannot_become_writable() {
    let mut guest = Guest::new();
    let table = guest.frame(TABLES[3]) << 12 | PRESENT | WRITE | USER;
    let at = WINDOW + (TABLES[3] << 12);
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, table, 0]), error(Errno::EBUSY));
    // A page that is mapped writable cannot become a table.
    let page = guest.frame(0x40);
    let pin = guest.put(&[ext::PIN_L1_TABLE.into(), page, 0]);
    assert_eq!(guest.call(H::MmuextOp, &[pin, 1, 0, 0x7ff0]), error(Errno::EINVAL));
    let read_only = page << 12 | PRESENT | USER;
    let at = WINDOW + (0x40 << 12);
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, read_only, va::INVLPG]), 0);
    assert_eq!(guest.cpu.flushed_pages.last(), Some(&at));
    let pin = guest.put(&[ext::PIN_L1_TABLE.into(), page, 0]);
    assert_eq!(guest.call(H::MmuextOp, &[pin, 1, 0, 0x7ff0]), 0);
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, read_only | WRITE, 0]), error(Errno::EBUSY));
    assert_eq!(guest.call(H::MmuextOp, &[pin, 1, 0, 0x7ff0]), error(Errno::EINVAL), "pinned twice");
    let unpin = guest.put(&[ext::UNPIN_TABLE.into(), page, 0]);
    assert_eq!(guest.call(H::MmuextOp, &[unpin, 1, 0, 0x7ff0]), 0);
    assert_eq!(guest.call(H::MmuextOp, &[unpin, 1, 0, 0x7ff0]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, read_only | WRITE, 0]), 0);
}

#[test]
fn entries_are_checked() {
    let mut guest = Guest::new();
    let at = WINDOW + (0x40 << 12);
    let frame = guest.frame(0x41) << 12;
    let map = |guest: &mut Guest, entry| guest.call(H::UpdateVaMapping, &[at, entry, 0]);
    assert_eq!(map(&mut guest, frame | PRESENT | WRITE), 0);
    assert_eq!(map(&mut guest, frame | PRESENT | PCD), error(Errno::EINVAL));
    assert_eq!(map(&mut guest, 1 << 12 | PRESENT), error(Errno::EBUSY), "the hypervisor's");
    assert_eq!(map(&mut guest, 1 << 40 | PRESENT), error(Errno::EPERM), "no memory");
    assert_eq!(map(&mut guest, 0), 0);
    let none = HYPERVISOR_START + 0x1000;
    assert_eq!(guest.call(H::UpdateVaMapping, &[none, 0, 0]), error(Errno::EINVAL));
    let other = [at, 0, 0, 5];
    assert_eq!(guest.call(H::UpdateVaMappingOtherdomain, &other), error(Errno::ESRCH));
}

#[test]
fn updates_stop_at_the_first_bad_one() {
    let mut guest = Guest::new();
    let entry = (guest.frame(TABLES[3]) << 12) + 0x50 * 8;
    let words = [entry, 0, entry | 5, 0, entry, 0];
    let list = guest.put(&words);
    let done = WINDOW + 0x1800;
    assert_eq!(guest.call(H::MmuUpdate, &[list, 3, done, 0x7ff0]), error(Errno::ENOSYS));
    assert_eq!(guest.word(0x100) as u32, 1);
    assert_eq!(guest.call(H::MmuUpdate, &[list, 1, done, 3]), error(Errno::ESRCH));
    for bad in BAD {
        assert_eq!(guest.call(H::MmuUpdate, &[bad, 1, 0, 0x7ff0]), error(Errno::EFAULT));
    }
    // Entries of the top-level table that are the hypervisor's.
    let reserved = (guest.frame(TABLES[0]) << 12) + 256 * 8;
    let list = guest.put(&[reserved, 0]);
    assert_eq!(guest.call(H::MmuUpdate, &[list, 1, 0, 0x7ff0]), error(Errno::EINVAL));
}

#[test]
fn flushes_reach_the_vcpus_that_they_name() {
    let mut guest = Guest::new();
    for (vcpus, asked) in [(0b01, vec![]), (0b10, vec![0b10]), (0b11, vec![0b11])] {
        let at =
            guest.put(&[ext::TLB_FLUSH_MULTI.into(), 0, WINDOW + 0x1040, 0, 0, 0, 0, 0, vcpus]);
        assert_eq!(guest.call(H::MmuextOp, &[at, 1, 0, 0x7ff0]), 0);
        assert_eq!(std::mem::take(&mut *guest.host.forgotten.lock().unwrap()), asked);
    }
}

#[test]
fn descriptors_are_checked() {
    let mut guest = Guest::new();
    let page = guest.frame(0x30);
    let at = (page << 12) + 8;
    let code = 0x00af_9b00_0000_ffff;
    assert_eq!(guest.call(H::UpdateDescriptor, &[at, code]), 0);
    assert_eq!(guest.call(H::UpdateDescriptor, &[at + 4, code]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::UpdateDescriptor, &[at, 0x89 << 40]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::UpdateDescriptor, &[0x1000, code]), error(Errno::EINVAL));
    let list = guest.put(&[page]);
    assert_eq!(guest.call(H::SetGdt, &[list, 512]), error(Errno::EINVAL), "it is writable");
    assert_eq!(guest.call(H::SetGdt, &[list, 8000]), error(Errno::EINVAL), "too many");
    let linear = WINDOW + (0x30 << 12);
    guest.call(H::UpdateVaMapping, &[linear, page << 12 | PRESENT, 0]);
    let list = guest.put(&[page]);
    assert_eq!(guest.call(H::SetGdt, &[list, 512]), 0);
    assert_eq!(
        guest.call(H::UpdateVaMapping, &[linear, page << 12 | PRESENT | WRITE, 0]),
        error(Errno::EBUSY)
    );
    assert_eq!(guest.call(H::SetGdt, &[8, 512]), error(Errno::EFAULT));
}

#[test]
fn ports_are_bound_raised_and_closed() {
    let mut guest = Guest::new();
    let bind = guest.put(&[0, 0]);
    let call = |guest: &mut Guest, op, at| guest.call(H::EventChannelOp, &[op, at]);
    assert_eq!(call(&mut guest, event::op::BIND_VIRQ, bind), 0);
    let port = guest.word(1) as u32;
    assert_eq!(call(&mut guest, event::op::BIND_VIRQ, bind), error(Errno::EEXIST));
    guest.put(&[99, 0]);
    assert_eq!(call(&mut guest, event::op::BIND_VIRQ, bind), error(Errno::EINVAL));
    guest.put(&[9 << 32, 0]);
    assert_eq!(call(&mut guest, event::op::BIND_VIRQ, bind), error(Errno::ENOENT));
    guest.domain.raise_virq(0, event::virq::TIMER);
    assert!(guest.domain.events.is_pending(port));
    assert!(guest.vcpu.event_pending());
    let close = guest.put(&[port.into()]);
    assert_eq!(call(&mut guest, event::op::CLOSE, close), 0);
    assert_eq!(call(&mut guest, event::op::CLOSE, close), error(Errno::EINVAL));
    assert_eq!(call(&mut guest, event::op::SEND, close), error(Errno::EINVAL));
    for op in 0..20 {
        for bad in BAD {
            assert!(call(&mut guest, op, bad) < 0, "{op} {bad:#x}");
        }
    }
}

#[test]
fn the_second_form_of_events_queues_by_priority() {
    let mut guest = Guest::new();
    let (control, words) = (guest.frame(0x50), guest.frame(0x51));
    let init = guest.put(&[control, 0]);
    assert_eq!(guest.call(H::EventChannelOp, &[event::op::INIT_CONTROL, init]), 0);
    assert_eq!(
        guest.call(H::EventChannelOp, &[event::op::INIT_CONTROL, init]),
        error(Errno::EINVAL)
    );
    let expand = guest.put(&[words]);
    assert_eq!(guest.call(H::EventChannelOp, &[event::op::EXPAND_ARRAY, expand]), 0);
    let bind = guest.put(&[0, 0]);
    assert_eq!(guest.call(H::EventChannelOp, &[event::op::BIND_IPI, bind]), 0);
    let port = guest.word(0) >> 32;
    let send = guest.put(&[port]);
    assert_eq!(guest.call(H::EventChannelOp, &[event::op::SEND, send]), 0);
    let ram = guest.domain.ram();
    let word = ram.load_word(((words << 12) + port * 4) & !7) >> (32 * (port & 1));
    let wanted = event::fifo::PENDING | event::fifo::LINKED;
    assert_eq!(word as u32 & wanted, wanted);
    let ready = ram.load_word(control << 12) as u32;
    assert_eq!(ready, 1 << event::fifo::DEFAULT_PRIORITY);
}

#[test]
fn shutdown_reasons_reach_the_machine() {
    let mut guest = Guest::new();
    let why = guest.put(&[sched::reason::REBOOT.into()]);
    let resume = guest.trap(H::SchedOp as u64, &[sched::SHUTDOWN, why]);
    assert_eq!(resume, Resume::Stop(Box::new(Stop::Halted)));
    assert_eq!(*guest.host.shutdowns.lock().unwrap(), [sched::reason::REBOOT]);
    let mut guest = Guest::new();
    let why = guest.put(&[77]);
    assert_eq!(guest.call(H::SchedOp, &[sched::SHUTDOWN, why]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::SchedOp, &[sched::SHUTDOWN, 8]), error(Errno::EFAULT));
    assert_eq!(guest.call(H::SchedOp, &[99, 0]), error(Errno::ENOSYS));
    let many = guest.put(&[WINDOW, 1000, 0]);
    assert_eq!(guest.call(H::SchedOp, &[sched::POLL, many]), error(Errno::EINVAL));
}

#[test]
fn a_guest_that_suspends_itself_goes_on() {
    let mut guest = Guest::new();
    let why = guest.put(&[sched::reason::SUSPEND.into()]);
    assert_eq!(guest.trap(H::SchedOp as u64, &[sched::SHUTDOWN, why]), Resume::Run);
    assert_eq!(guest.cpu.state.gpr[RAX], 1);
    assert!(guest.host.shutdowns.lock().unwrap().is_empty());
}

#[test]
fn blocking_sleeps_unless_an_event_is_pending() {
    let mut guest = Guest::new();
    let resume = guest.trap(H::SchedOp as u64, &[sched::BLOCK]);
    assert_eq!(resume, Resume::Stop(Box::new(Stop::Halted)));
    assert!(!guest.vcpu.events_masked());
    guest.domain.mark_events_pending(0);
    assert_eq!(guest.trap(H::SchedOp as u64, &[sched::BLOCK]), Resume::Run);
}

#[test]
fn vcpus_come_up_once_they_have_a_state() {
    let mut guest = Guest::new();
    let call = |guest: &mut Guest, op, id, at| guest.call(H::VcpuOp, &[op, id, at]);
    assert_eq!(call(&mut guest, vcpu::op::IS_UP, 0, 0), 1);
    assert_eq!(call(&mut guest, vcpu::op::IS_UP, 1, 0), 0);
    assert_eq!(call(&mut guest, vcpu::op::IS_UP, 2, 0), error(Errno::ENOENT));
    assert_eq!(call(&mut guest, vcpu::op::UP, 1, 0), error(Errno::EINVAL));
    assert_eq!(call(&mut guest, vcpu::op::INITIALISE, 1, 8), error(Errno::EFAULT));
    assert_eq!(call(&mut guest, vcpu::op::INITIALISE, 0, WINDOW), error(Errno::EEXIST));
    assert_eq!(call(&mut guest, vcpu::op::INITIALISE, 1, WINDOW), 0);
    assert_eq!(call(&mut guest, vcpu::op::INITIALISE, 1, WINDOW), error(Errno::EEXIST));
    assert_eq!(call(&mut guest, vcpu::op::UP, 1, 0), 0);
    let asked = guest.domain.vcpus[1].attention.pending();
    assert!(asked.contains(Request::SIPI), "{asked:?}");
    let period = guest.put(&[1000]);
    assert_eq!(call(&mut guest, vcpu::op::SET_PERIODIC_TIMER, 0, period), error(Errno::EINVAL));
    let past = guest.put(&[1, 1]);
    assert_eq!(call(&mut guest, vcpu::op::SET_SINGLESHOT_TIMER, 0, past), error(Errno::ETIME));
    for area in [vcpu::op::REGISTER_RUNSTATE_MEMORY_AREA, vcpu::op::REGISTER_VCPU_TIME_MEMORY_AREA]
    {
        for (address, result) in [(WINDOW + 0x3000, 0), (8, error(Errno::EFAULT)), (0, 0)] {
            let request = guest.put(&[address]);
            assert_eq!(call(&mut guest, area, 0, request), result);
        }
    }
    assert_eq!(guest.vcpu.run_state_area, None);
    let info = guest.put(&[1 << 40, 0]);
    assert_eq!(call(&mut guest, vcpu::op::REGISTER_VCPU_INFO, 0, info), error(Errno::EINVAL));
    assert_eq!(call(&mut guest, 99, 0, 0), error(Errno::ENOSYS));
}

#[test]
fn memory_is_given_back_and_taken_again() {
    let mut guest = Guest::new();
    let pages = 16 << 8;
    let domain = guest.put(&[0x7ff0]);
    let current = memory::op::CURRENT_RESERVATION;
    assert_eq!(guest.call(H::MemoryOp, &[current, domain]), pages);
    let (at, frame) = (WINDOW + (0x60 << 12), guest.frame(0x60));
    guest.call(H::UpdateVaMapping, &[at, 0, 0]);
    let list = WINDOW + 0x1800;
    let reservation = [list, 1, 0, 0x7ff0];
    guest.put(&reservation);
    let put = |guest: &mut Guest, value: u64| {
        use ambos_vcpu::GuestCpu;
        guest.cpu.write(list, &value.to_le_bytes()).unwrap();
    };
    put(&mut guest, frame);
    let give = memory::op::DECREASE_RESERVATION;
    assert_eq!(guest.call(H::MemoryOp, &[give, WINDOW + 0x1000]), 1);
    assert_eq!(guest.call(H::MemoryOp, &[give, WINDOW + 0x1000]), 0, "given back already");
    // It cannot be mapped any more.
    let entry = frame << 12 | PRESENT;
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, entry, 0]), error(Errno::EBUSY));
    let domain = guest.put(&[0x7ff0]);
    assert_eq!(guest.call(H::MemoryOp, &[current, domain]), pages - 1);
    guest.put(&reservation);
    put(&mut guest, 0x60);
    assert_eq!(guest.call(H::MemoryOp, &[memory::op::POPULATE_PHYSMAP, WINDOW + 0x1000]), 1);
    assert_eq!(guest.word(0x100), frame);
    assert_eq!(guest.call(H::UpdateVaMapping, &[at, entry, 0]), 0);
    assert_eq!(guest.call(H::MemoryOp, &[give, 8]), error(Errno::EFAULT));
    guest.put(&[list, 1, 0, 5]);
    assert_eq!(guest.call(H::MemoryOp, &[give, WINDOW + 0x1000]), error(Errno::ESRCH));
}

#[test]
fn calls_are_bundled() {
    let mut guest = Guest::new();
    let mut entries = vec![0; 24];
    (entries[0], entries[2]) = (H::XenVersion as u64, version::VERSION);
    entries[8] = 50;
    entries[16] = H::Multicall as u64;
    let list = guest.put(&entries);
    assert_eq!(guest.call(H::Multicall, &[list, 3]), 0);
    assert_eq!(guest.word(1), 4 << 16 | 17);
    assert_eq!(guest.word(9), Errno::ENOSYS.result());
    assert_eq!(guest.word(17), Errno::ENOSYS.result());
    for bad in BAD {
        assert_eq!(guest.call(H::Multicall, &[bad, 1]), error(Errno::EFAULT));
    }
}

#[test]
fn features_and_console_answer() {
    let mut guest = Guest::new();
    let request = guest.put(&[0]);
    assert_eq!(guest.call(H::XenVersion, &[version::GET_FEATURES, request]), 0);
    assert_eq!(guest.word(0) >> 32, u64::from(features::OFFERED));
    guest.put(&[1]);
    assert_eq!(guest.call(H::XenVersion, &[version::GET_FEATURES, request]), error(Errno::EINVAL));
    let text = guest.put(&[u64::from_le_bytes(*b"hello...")]);
    assert_eq!(guest.call(H::ConsoleIo, &[0, 5, text]), 0);
    assert_eq!(*guest.host.printed.lock().unwrap(), b"hello");
    assert_eq!(guest.call(H::ConsoleIo, &[0, 5, 8]), error(Errno::EFAULT));
    assert_eq!(guest.call(H::ConsoleIo, &[0, 1 << 31, text]), error(Errno::EINVAL));
}

#[test]
fn small_calls_check_their_arguments() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(H::VmAssist, &[0, 2]), 0);
    assert_eq!(guest.call(H::VmAssist, &[0, 63]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::VmAssist, &[2, 2]), error(Errno::ENOSYS));
    assert_eq!(guest.call(H::SetSegmentBase, &[0, 0x1234]), 0);
    assert_eq!(guest.cpu.state.segments.fs.base, 0x1234);
    assert_eq!(guest.call(H::SetSegmentBase, &[0, 1 << 63]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::SetSegmentBase, &[9, 0]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::SetDebugreg, &[0, WINDOW]), 0);
    assert_eq!(guest.call(H::GetDebugreg, &[0]) as u64, WINDOW);
    assert_eq!(guest.call(H::SetDebugreg, &[0, HYPERVISOR_START]), error(Errno::EPERM));
    assert_eq!(guest.call(H::SetDebugreg, &[9, 0]), error(Errno::EINVAL));
    let level = guest.put(&[4]);
    assert_eq!(guest.call(H::PhysdevOp, &[6, level]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::PhysdevOp, &[99, level]), error(Errno::ENOSYS));
    let callback = guest.put(&[0, 1 << 63]);
    assert_eq!(guest.call(H::CallbackOp, &[0, callback]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::CallbackOp, &[1, callback]), error(Errno::EINVAL));
    let trap = guest.put(&[14, 0xffff_0000, 0]);
    assert_eq!(guest.call(H::SetTrapTable, &[trap]), 0);
    assert_eq!(guest.vcpu.traps[14].address, 0xffff_0000);
    guest.put(&[14, 1 << 63, 0]);
    assert_eq!(guest.call(H::SetTrapTable, &[trap]), error(Errno::EINVAL));
    assert_eq!(guest.call(H::XenpmuOp, &[0]), error(Errno::EOPNOTSUPP));
    assert_eq!(guest.call(H::Domctl, &[0]), error(Errno::EPERM));
    guest.call(H::FpuTaskswitch, &[1]);
    assert_ne!(guest.cpu.state.control.cr0 & 8, 0);
    guest.call(H::StackSwitch, &[0xe02b, 0x1234]);
    assert_eq!(guest.vcpu.kernel_stack.1, 0x1234);
}
