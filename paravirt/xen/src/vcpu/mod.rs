//! One vCPU of a guest: how it comes to the hypervisor and goes back.

mod bounce;
mod iret;
mod segments;
mod sleep;
mod spaces;
mod start;
mod state;
mod traps;

pub(crate) use bounce::Entry;
pub(crate) use state::{Callback, Callbacks, TrapInfo};

use crate::domain::{Domain, SharedVcpu, Start};
use crate::emulate::Substitution;
use ambos_intercept::{Intercept, Ledger, Privileged};
use ambos_vcpu::{Crash, GuestCpu, Resume, SegmentName, Stop, Supervisor, Trap};
use ambos_xen_abi::shared_info;
use spaces::Spaces;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How the vCPU goes on after a trap was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Back to the guest, with a look at pending events.
    Guest,
    /// Asleep until an event.
    Sleep,
    /// Down, until it is brought up again.
    Down,
    /// One instruction runs with another page in place of one.
    Substitute { linear: u64, frame: u64 },
    /// The guest broke the rules in a way that leaves it no way to go on.
    Crash(String),
}

/// One vCPU: the supervisor of its engine.
pub struct XenVcpu {
    // Configuration.
    pub(crate) id: u32,

    // Dependencies.
    pub(crate) domain: Arc<Domain>,
    ledger: Arc<Ledger>,
    pub(crate) processor: Box<dyn Processor>,

    // Book-keeping.
    pub(crate) spaces: Spaces,
    pub(crate) substitution: Option<Substitution>,
    /// What the first vCPU has yet to begin with.
    start: Option<Start>,

    // Volatile state.
    /// The guest's kernel runs, not its programs.
    pub(crate) kernel_mode: bool,
    /// Machine frames of the top-level tables of kernel and user mode; zero: none.
    pub(crate) kernel_root: u64,
    pub(crate) user_root: u64,
    /// What is wrong of what is cached of the user mode's is to be forgotten before that is entered.
    pub(crate) user_root_flushed: bool,
    /// Stack of the kernel when it is entered from user mode.
    pub(crate) kernel_stack: (u16, u64),
    /// GS base of the mode that does not run.
    pub(crate) other_gs_base: u64,
    /// Handlers by vector.
    pub(crate) traps: Box<[TrapInfo; 256]>,
    pub(crate) callbacks: Callbacks,
    /// I/O privilege level, in the flags' place.
    pub(crate) iopl: u64,
    /// What the engine knows of whether that permits CLI and STI.
    ignores_interrupt_flag: bool,
    /// Bitmap of ports for user mode: linear address and bits.
    pub(crate) io_bitmap: (u64, u32),
    /// Local descriptor table: linear address and entries.
    pub(crate) ldt: (u64, u32),
    /// Frames of the global descriptor table.
    pub(crate) gdt: Vec<u64>,
    /// Where run states go, as a linear address.
    pub(crate) run_state_area: Option<u64>,
    /// A handler of an NMI runs.
    nmi_masked: bool,
    /// The guest asked for a stop that is to come after this trap.
    pub(crate) dead: bool,
}

/// The processor as the machine's model has it.
pub trait Processor: Send {
    /// CPUID, with what Xen adds and before what depends on control registers.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Bytes of the extended-state area for these components, in the standard or the compacted format.
    fn save_area(&self, xcr0: u64, compacted: bool) -> u32;

    /// Reads a model-specific register that the hypervisor does not hold itself.
    fn read_msr(&self, index: u32) -> Option<u64>;

    /// Writes one; `false` if there is none or the value is illegal.
    fn write_msr(&mut self, index: u32, value: u64) -> bool;
}

impl XenVcpu {
    /// The vCPU `id` of `domain`. The first one begins with `start`, the others when the guest brings them up:
    /// each at the first event after that.
    pub fn new(
        domain: Arc<Domain>,
        id: u32,
        ledger: Arc<Ledger>,
        processor: Box<dyn Processor>,
        start: Option<Start>,
    ) -> Self {
        Self {
            id,
            domain,
            ledger,
            processor,
            start,
            spaces: Spaces::default(),
            substitution: None,
            kernel_mode: true,
            kernel_root: 0,
            user_root: 0,
            user_root_flushed: false,
            kernel_stack: (0, 0),
            other_gs_base: 0,
            traps: Box::new([TrapInfo::default(); 256]),
            callbacks: Callbacks::default(),
            iopl: 0,
            ignores_interrupt_flag: false,
            io_bitmap: (0, 0),
            ldt: (0, 0),
            gdt: Vec::new(),
            run_state_area: None,
            nmi_masked: false,
            dead: false,
        }
    }

    /// This vCPU as others see it.
    pub(crate) fn shared(&self) -> &SharedVcpu {
        &self.domain.vcpus[self.id as usize]
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Guest-physical address of this vCPU's information.
    pub(crate) fn info(&self) -> u64 {
        self.shared().info.load(Ordering::Relaxed)
    }

    /// Whether the guest masks events.
    pub(crate) fn events_masked(&self) -> bool {
        self.domain.byte(self.info() + shared_info::vcpu::UPCALL_MASK) != 0
    }

    /// Masks or unmasks events.
    pub(crate) fn mask_events(&self, masked: bool) {
        self.domain.set_byte(self.info() + shared_info::vcpu::UPCALL_MASK, masked.into());
    }

    /// Whether an event is pending.
    pub(crate) fn event_pending(&self) -> bool {
        self.domain.byte(self.info() + shared_info::vcpu::UPCALL_PENDING) != 0
    }

    /// System time.
    pub(crate) fn now(&self, cpu: &dyn GuestCpu) -> u64 {
        self.domain.time.system_time(cpu.tsc())
    }

    /// Runs `work`, which may take long, while others need not wait for this vCPU.
    pub(crate) fn away<T>(&self, cpu: &mut dyn GuestCpu, work: impl FnOnce(&Domain) -> T) -> T {
        if self.domain.vcpus.len() == 1 {
            return work(&self.domain);
        }
        self.domain.host.away(self.id, true);
        let result = work(&self.domain);
        self.domain.host.away(self.id, false);
        cpu.serve_flush();
        result
    }

    /// Switches between kernel and user mode.
    pub(crate) fn toggle_mode(&mut self, cpu: &mut dyn GuestCpu) {
        self.kernel_mode = !self.kernel_mode;
        let base = cpu.segment(SegmentName::Gs).base;
        cpu.set_base(SegmentName::Gs, self.other_gs_base);
        self.other_gs_base = base;
        let root = if self.kernel_mode { self.kernel_root } else { self.user_root };
        let flushed = !self.kernel_mode && std::mem::take(&mut self.user_root_flushed);
        if flushed || !self.spaces.knows(root) {
            let domain = Arc::clone(&self.domain);
            let pages = domain.pages(cpu);
            self.spaces.renew(cpu, root, &pages);
        }
        self.spaces.resume(cpu, root);
    }

    /// Makes the vCPU enter the guest's kernel wherever that wants to go because of pending events.
    fn before_return(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        let vcpu = self.shared();
        if vcpu.nmi.load(Ordering::Relaxed) && !self.nmi_masked {
            vcpu.nmi.store(false, Ordering::SeqCst);
            let handler = self.traps[2];
            if handler.address != 0 {
                self.nmi_masked = true;
                self.ledger.count(Intercept::Interrupt);
                return self.enter_kernel(
                    cpu,
                    Entry { address: handler.address, mask: true, error: None },
                );
            }
        }
        if !self.event_pending() || self.events_masked() || self.callbacks.event == 0 {
            return Flow::Guest;
        }
        self.ledger.count(Intercept::Interrupt);
        let address = self.callbacks.event;
        self.enter_kernel(cpu, Entry { address, mask: true, error: None })
    }

    /// A return from a handler ends the masking of NMIs.
    pub(crate) fn end_nmi(&mut self) {
        self.nmi_masked = false;
    }

    /// Tells the engine whether CLI and STI are permitted; they change nothing here. Another vCPU's choice of how levels
    /// count is told with the next trap.
    #[inline]
    fn tell_privilege(&mut self, cpu: &mut dyn GuestCpu) {
        let ignored = self.has_port_privilege();
        if self.ignores_interrupt_flag != ignored {
            self.ignores_interrupt_flag = ignored;
            cpu.ignore_interrupt_flag(ignored);
        }
    }

    fn finish(&mut self, cpu: &mut dyn GuestCpu, flow: Flow) -> Resume {
        let flow = match flow {
            Flow::Guest if self.dead => Flow::Sleep,
            Flow::Guest => self.before_return(cpu),
            other => other,
        };
        self.tell_privilege(cpu);
        let stop = match flow {
            Flow::Guest => return Resume::Run,
            Flow::Substitute { linear, frame } => return Resume::Substitute { linear, frame },
            Flow::Sleep => Stop::Halted,
            Flow::Down => Stop::WaitForStartUp,
            Flow::Crash(reason) => Stop::Crashed(Crash::Supervisor { rip: cpu.rip(), reason }),
        };
        Resume::Stop(Box::new(stop))
    }

    fn system_call(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        let long = cpu.is_64bit();
        if long && cpu.segment(SegmentName::Cs).selector != bounce::FLAT_CODE.selector {
            // SYSCALL leaves the flat segments behind, whatever the caller's were.
            cpu.set_code_and_stack(bounce::FLAT_CODE, bounce::FLAT_DATA);
        }
        if long && self.kernel_mode {
            return self.hypercall(cpu);
        }
        self.ledger.count(Intercept::Privileged(Privileged::SystemCall));
        // What SYSCALL does to these registers, the guest's handler sees.
        let (rip, flags) = (cpu.rip(), cpu.rflags());
        let callback = if long { self.callbacks.syscall } else { self.callbacks.syscall32 };
        if callback.address == 0 {
            cpu.set_rip(rip.wrapping_sub(2));
            return self.raise(cpu, ambos_x86::Vector::InvalidOpcode, None);
        }
        let gpr = cpu.gpr_mut();
        gpr[ambos_x86::gpr::RCX] = rip;
        gpr[ambos_x86::gpr::R11] = flags;
        let entry = Entry { address: callback.address, mask: callback.masks_events, error: None };
        self.enter_kernel(cpu, entry)
    }

    fn system_enter(&mut self, cpu: &mut dyn GuestCpu) -> Flow {
        self.ledger.count(Intercept::Privileged(Privileged::SystemCall));
        let callback = self.callbacks.sysenter;
        if callback.address == 0 || self.kernel_mode {
            cpu.set_rip(cpu.rip().wrapping_sub(2));
            return self.raise(cpu, ambos_x86::Vector::GeneralProtection, Some(0));
        }
        let entry = Entry { address: callback.address, mask: callback.masks_events, error: None };
        self.enter_kernel(cpu, entry)
    }
}

impl Supervisor for XenVcpu {
    fn trap(&mut self, cpu: &mut dyn GuestCpu, trap: Trap) -> Resume {
        let flow = match trap {
            Trap::SystemCall => self.system_call(cpu),
            Trap::SystemEnter => self.system_enter(cpu),
            Trap::SoftwareInterrupt { vector, length } => {
                self.software_interrupt(cpu, vector, length)
            }
            Trap::Exception(exception) => self.exception(cpu, exception),
            Trap::Event => {
                self.shared().attention.take(ambos_vcpu::Request::INTERRUPT);
                self.woken(cpu);
                self.begin(cpu)
            }
            Trap::Nmi => {
                self.shared().nmi.store(true, Ordering::SeqCst);
                self.woken(cpu);
                Flow::Guest
            }
        };
        self.finish(cpu, flow)
    }

    fn emulated(&mut self, cpu: &mut dyn GuestCpu, completed: bool) -> Resume {
        let flow = self.finish_substitution(cpu, completed);
        self.finish(cpu, flow)
    }
}
