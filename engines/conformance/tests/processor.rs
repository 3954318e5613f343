//! The same programs on the processor itself, where the host has KVM: what the programs expect is
//! what a processor does. Without KVM this shows nothing and passes.

#![expect(unsafe_code, reason = "KVM and signals")]

use ambos_conformance::{PROGRAMS, RAM_SIZE, Verdict, initial_state, lay_out};
use ambos_memory::GuestRam;
use ambos_vcpu::{CpuState, Segment};
use ambos_x86::segment::attr;
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_interrupt, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Programs whose outcome depends on the processor's maker.
const VENDOR_SPECIFIC: &[&str] = &["pae_pointers"];
/// Programs of which KVM, which does task switches itself, does not do what they expect.
const NOT_BY_KVM: &[&str] = &["task_trap"];

fn segment(segment: &Segment) -> kvm_segment {
    let a = segment.attributes;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (a & attr::TYPE) as u8,
        present: u8::from(a & attr::P != 0),
        dpl: (a >> attr::DPL_SHIFT & 3) as u8,
        db: u8::from(a & attr::DB != 0),
        s: u8::from(a & attr::S != 0),
        l: u8::from(a & attr::L != 0),
        g: u8::from(a & attr::G != 0),
        avl: 0,
        unusable: u8::from(a & attr::UNUSABLE != 0),
        padding: 0,
    }
}

fn set_state(vcpu: &VcpuFd, state: &CpuState) -> Result<(), kvm_ioctls::Error> {
    let mut sregs = vcpu.get_sregs()?;
    let segments = &state.segments;
    sregs.cs = segment(&segments.cs);
    sregs.ss = segment(&segments.ss);
    (sregs.ds, sregs.es) = (segment(&segments.ds), segment(&segments.es));
    (sregs.fs, sregs.gs) = (segment(&segments.fs), segment(&segments.gs));
    (sregs.cr0, sregs.cr3, sregs.cr4) = (state.control.cr0, state.control.cr3, state.control.cr4);
    sregs.efer = state.control.efer;
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: state.rip, rflags: state.rflags, ..kvm_regs::default() })
}

/// What the board does, in terms of KVM.
#[derive(Default)]
struct Ports {
    latch: [u8; 4],
    pending: Vec<u8>,
    at_halt: Option<u8>,
    nmi_at_halt: bool,
    nmi: bool,
    result: Option<u32>,
}

impl Ports {
    fn write(&mut self, port: u16, data: &[u8]) {
        let value = data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        match port {
            0xf4 => self.result = Some(value),
            0xe8 => self.pending.push(value as u8),
            0xe9 => self.at_halt = Some(value as u8),
            0xea => self.nmi = true,
            0xeb => self.nmi_at_halt = true,
            0xe0..=0xe3 => {
                let start = usize::from(port - 0xe0);
                if let Some(bytes) = self.latch.get_mut(start..start + data.len()) {
                    bytes.copy_from_slice(data);
                }
            }
            _ => {}
        }
    }

    fn read(&self, port: u16, data: &mut [u8]) {
        let start = usize::from(port.wrapping_sub(0xe0));
        match self.latch.get(start..start + data.len()) {
            Some(bytes) => data.copy_from_slice(bytes),
            None => data.fill(0xff),
        }
    }
}

fn run(kvm: &Kvm, vm: &VmFd, name: &str) -> Result<Result<Verdict, String>, kvm_ioctls::Error> {
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    set_state(&vcpu, &initial_state(name))?;
    let done = Arc::new(AtomicBool::new(false));
    let watchdog = watch(&done);
    let mut ports = Ports::default();
    let outcome = loop {
        if let Some(result) = ports.result {
            break Ok(Verdict::from_result(result));
        }
        if std::mem::take(&mut ports.nmi) {
            vcpu.nmi()?;
        }
        let ready = vcpu.get_kvm_run().ready_for_interrupt_injection != 0;
        if ready && !ports.pending.is_empty() {
            inject(&vcpu, ports.pending.remove(0));
        }
        vcpu.get_kvm_run().request_interrupt_window = u8::from(!ports.pending.is_empty());
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => ports.write(port, data),
            Ok(VcpuExit::IoIn(port, data)) => ports.read(port, data),
            Ok(VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::Hlt) => {
                ports.pending.extend(ports.at_halt.take());
                ports.nmi = std::mem::take(&mut ports.nmi_at_halt);
                let interruptible = vcpu.get_kvm_run().if_flag != 0;
                if !(ports.nmi || interruptible && !ports.pending.is_empty()) {
                    break Err(format!("halted at {:#x}", vcpu.get_regs()?.rip));
                }
            }
            Ok(exit) => {
                let text = format!("{exit:?}");
                break Err(format!("{text} at {:#x}", vcpu.get_regs()?.rip));
            }
            Err(error) => break Err(format!("{error} at {:#x}", vcpu.get_regs()?.rip)),
        }
    };
    done.store(true, Ordering::SeqCst);
    watchdog.join().expect("the watchdog does not panic");
    Ok(outcome)
}

/// Interrupts KVM_RUN after a while, so that a program that never ends does.
fn watch(done: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: the handler does nothing; without SA_RESTART the ioctl returns.
    let thread = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
        libc::pthread_self()
    };
    let done = Arc::clone(done);
    std::thread::spawn(move || {
        let mut tenths = 0;
        while !done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
            tenths += 1;
            if tenths > 500 {
                // SAFETY: the thread waits for this one, so it lives.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
            }
        }
    })
}

fn inject(vcpu: &VcpuFd, vector: u8) {
    const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: the request takes a pointer to this structure.
    unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_INTERRUPT, &raw const interrupt) };
}

#[test]
fn the_processor_conforms() {
    // Other kinds of KVM do not run privileged code on the processor.
    let hardware = ["kvm_intel", "kvm_amd"]
        .iter()
        .any(|module| std::path::Path::new("/sys/module").join(module).exists());
    let Ok(kvm) = Kvm::new() else { return };
    if !hardware {
        return;
    }
    let mut failures = String::new();
    for (name, image) in PROGRAMS {
        if VENDOR_SPECIFIC.contains(name) || NOT_BY_KVM.contains(name) {
            continue;
        }
        let Ok(vm) = kvm.create_vm() else { return };
        let ram = GuestRam::new(RAM_SIZE).unwrap();
        lay_out(&ram, image);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: RAM_SIZE,
            userspace_addr: ram.regions()[0].hva as u64,
        };
        // SAFETY: the memory outlives the machine, which is dropped first.
        if unsafe { vm.set_user_memory_region(region) }.is_err() {
            return;
        }
        match run(&kvm, &vm, name) {
            Ok(Ok(Verdict::Passed)) => {}
            Ok(Ok(verdict)) => failures.push_str(&format!("{name}: {verdict}\n")),
            Ok(Err(what)) => failures.push_str(&format!("{name}: {what}\n")),
            Err(error) => failures.push_str(&format!("{name}: {error}\n")),
        }
        drop(vm);
    }
    assert!(failures.is_empty(), "\n{failures}");
}
