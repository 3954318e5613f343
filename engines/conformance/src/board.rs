//! The board that programs run on.

use crate::start;
use ambos_intercept::{Ledger, UnservedLog};
use ambos_memory::GuestRam;
use ambos_vcpu::{
    Attention, Crash, Engine, MsrFault, PHYSICAL_BITS, Platform, PortWidth, Request, Stop,
};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

// Ports; `board.h` describes them.
const PORT_LATCH: u16 = 0xe0;
const PORT_INTERRUPT: u16 = 0xe8;
const PORT_INTERRUPT_AT_HALT: u16 = 0xe9;
const PORT_NMI: u16 = 0xea;
const PORT_NMI_AT_HALT: u16 = 0xeb;
const PORT_RESULT: u16 = 0xf4;

/// More time than any program takes; it only ends the ones that hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every check held.
    Passed,
    /// The check in this line of the program did not hold.
    Failed {
        /// Line number.
        line: u32,
    },
    /// An exception that the program did not expect.
    Exception {
        /// Vector.
        vector: u8,
        /// The low 16 bits of the instruction pointer; programs lie below 64 KiB.
        rip: u16,
    },
    /// The vCPU crashed.
    Crashed(Crash),
    /// The vCPU stopped without a result.
    Stopped {
        /// Why.
        stop: Stop,
        /// Where.
        rip: u64,
    },
}

impl Verdict {
    /// The verdict that a program reported through its port.
    pub fn from_result(value: u32) -> Self {
        match value {
            0 => Self::Passed,
            _ if value >> 24 == 1 => {
                Self::Exception { vector: (value >> 16) as u8, rip: value as u16 }
            }
            line => Self::Failed { line },
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => write!(f, "passed"),
            Self::Failed { line } => write!(f, "the check in line {line} failed"),
            Self::Exception { vector, rip } => {
                write!(f, "unexpected exception {vector} at rip {rip:#x}")
            }
            Self::Crashed(crash) => write!(f, "crashed: {crash}"),
            Self::Stopped { stop, rip } => write!(f, "stopped at rip {rip:#x}: {stop:?}"),
        }
    }
}

/// The board: a [`Platform`] with the ports that programs know.
#[derive(Debug)]
pub struct Board {
    attention: Arc<Attention>,
    /// What the program reported.
    pub result: Option<u32>,
    /// Interrupts asked for, first come first served.
    pub pending: Vec<u8>,
    /// Interrupt to ask for when the processor halts.
    pub at_halt: Option<u8>,
    /// An NMI is to be raised when the processor halts.
    pub nmi_at_halt: bool,
    latch: [u8; 4],
    task_priority: u8,
    ledger: Ledger,
    unserved: UnservedLog,
}

impl Board {
    /// A board that asks for the vCPU's attention through `attention`.
    pub fn new(attention: Arc<Attention>) -> Self {
        Self {
            attention,
            result: None,
            pending: Vec::new(),
            at_halt: None,
            nmi_at_halt: false,
            latch: [0; 4],
            task_priority: 0,
            ledger: Ledger::default(),
            unserved: UnservedLog::default(),
        }
    }

    fn interrupt(&mut self, vector: u8) {
        self.pending.push(vector);
        self.attention.raise(Request::INTERRUPT);
    }

    /// What happens when the processor halts. Returns whether it has a reason to go on.
    fn halted(&mut self, interruptible: bool) -> bool {
        if let Some(vector) = self.at_halt.take() {
            self.interrupt(vector);
        }
        if std::mem::take(&mut self.nmi_at_halt) {
            self.attention.raise(Request::NMI);
        }
        let pending = self.attention.pending();
        pending.contains(Request::NMI) || interruptible && pending.contains(Request::INTERRUPT)
    }
}

impl Platform for Board {
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32 {
        let start = usize::from(port.wrapping_sub(PORT_LATCH));
        let bytes = self.latch.get(start..start + width as usize);
        let missing = u32::MAX >> (32 - 8 * width as u32);
        bytes.map_or(missing, |bytes| {
            bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
        })
    }

    fn port_write(&mut self, port: u16, width: PortWidth, value: u32) {
        match port {
            PORT_RESULT => {
                self.result.get_or_insert(value);
                self.attention.raise(Request::STOP);
            }
            PORT_INTERRUPT => self.interrupt(value as u8),
            PORT_INTERRUPT_AT_HALT => self.at_halt = Some(value as u8),
            PORT_NMI => self.attention.raise(Request::NMI),
            PORT_NMI_AT_HALT => self.nmi_at_halt = true,
            _ => {
                let start = usize::from(port.wrapping_sub(PORT_LATCH));
                if let Some(bytes) = self.latch.get_mut(start..start + width as usize) {
                    bytes.copy_from_slice(&value.to_le_bytes()[..width as usize]);
                }
            }
        }
    }

    fn mmio_read(&mut self, _gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}

    fn msr_read(&mut self, _index: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }

    fn msr_write(&mut self, index: u32, _value: u64) -> Result<(), MsrFault> {
        // Engines tell of the time-stamp counter, for the sake of an APIC that is not here.
        if index == ambos_x86::msr::IA32_TSC { Ok(()) } else { Err(MsrFault) }
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let values = std::arch::x86_64::__cpuid_count(leaf, subleaf);
        let eax = if leaf == 0x8000_0008 { values.eax & !0xff | PHYSICAL_BITS } else { values.eax };
        [eax, values.ebx, values.ecx, values.edx]
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let vector = if self.pending.is_empty() { None } else { Some(self.pending.remove(0)) };
        if self.pending.is_empty() {
            self.attention.lower(Request::INTERRUPT);
        }
        vector
    }

    fn task_priority(&mut self) -> u8 {
        self.task_priority
    }

    fn set_task_priority(&mut self, class: u8) {
        self.task_priority = class;
    }

    fn flush_others(&mut self) {}

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}

fn run_to_end<E: Engine>(engine: &mut E, board: &mut Board) -> Verdict {
    loop {
        let stop = engine.run(board, None);
        if let Some(value) = board.result {
            return Verdict::from_result(value);
        }
        match stop {
            Stop::Halted if board.halted(engine.state().rflags & 0x200 != 0) => {}
            Stop::Crashed(crash) => return Verdict::Crashed(crash),
            stop => return Verdict::Stopped { stop, rip: engine.state().rip },
        }
    }
}

/// Runs the program `image` called `name` on the engine that `make` makes.
///
/// # Panics
///
/// If the host has no memory for the guest.
pub fn run<E: Engine>(
    name: &str,
    image: &[u8],
    make: impl FnOnce(Arc<GuestRam>, Arc<Attention>) -> E,
) -> Verdict {
    let ram = Arc::new(GuestRam::new(start::RAM_SIZE).expect("the host has some memory"));
    start::lay_out(&ram, image);
    let attention = Arc::new(Attention::default());
    let mut board = Board::new(Arc::clone(&attention));
    let mut engine = make(ram, attention);
    engine.set_state(&start::initial_state(name));
    // Without a budget of instructions, which would keep engines from their fast paths.
    std::thread::scope(|scope| {
        let (done, ended) = mpsc::channel::<()>();
        let watched = Arc::clone(&board.attention);
        scope.spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                watched.raise(Request::STOP);
            }
        });
        let verdict = run_to_end(&mut engine, &mut board);
        drop(done);
        verdict
    })
}
