//! A deprivileged kernel's calls of its supervisor: code goes on behind them as the supervisor left it.

mod common;

use ambos_intercept::{Intercept, Privileged};
use ambos_memory::GuestRam;
use ambos_vcpu::{
    CpuState, Engine, Exception, GuestCpu, MsrFault, Platform, PortWidth, Resume, Stop, Supervisor,
    Trap,
};
use ambos_x86::gpr::{RAX, RBX};
use ambos_x86::{RFlags, Vector};
use common::{CODE, Nothing, STACK};
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

/// Where the kernel sees its memory besides.
const UPPER: u64 = 0xffff_ff80_0000_0000;
/// Top-level tables: the tests' own, and one that has the other code.
const ROOTS: [u64; 2] = [0x1000, 0x10_0000];
/// The code's page in the second address space.
const OTHER_CODE: u64 = 0x11_0000;
/// The entry that maps the code in the first one.
const ENTRY: u64 = 0x4000 + (CODE >> 12) * 8;

// What the supervisor does, by number; the code is exchanged by every third call only.
const ADD: u64 = 0;
const SKIP: u64 = 1;
const SWITCH: u64 = 2;
const REMAP: u64 = 3;
const END: u64 = 4;
const PERMIT: u64 = 5;

struct Services {
    ram: Arc<GuestRam>,
    root: usize,
    calls: u64,
    /// CLI and STI are permitted, and how often they were not.
    permitted: bool,
    refused: u64,
}

impl Supervisor for Services {
    fn trap(&mut self, cpu: &mut dyn GuestCpu, trap: Trap) -> Resume {
        if trap != Trap::SystemCall {
            let vector = Vector::GeneralProtection;
            assert_eq!(trap, Trap::Exception(Exception { vector, error: 0, address: 0 }));
            self.refused += 1;
            cpu.set_rip(cpu.rip() + 1);
            return Resume::Run;
        }
        self.calls += 1;
        match cpu.gpr()[RAX] {
            SWITCH | REMAP | PERMIT if !self.calls.is_multiple_of(3) => {}
            PERMIT => {
                self.permitted = !self.permitted;
                cpu.ignore_interrupt_flag(self.permitted);
            }
            ADD => cpu.gpr_mut()[RBX] += 100,
            SKIP => cpu.set_rip(cpu.rip() + 4),
            SWITCH => {
                self.root ^= 1;
                cpu.switch_space(ROOTS[self.root], self.root as u16 + 1);
            }
            REMAP => {
                let entry = self.ram.load_word(ENTRY);
                self.ram.store_word(ENTRY, entry ^ CODE ^ OTHER_CODE);
                cpu.flush_page(UPPER | CODE);
            }
            _ => return Resume::Stop(Box::new(Stop::Halted)),
        }
        Resume::Run
    }

    fn emulated(&mut self, _: &mut dyn GuestCpu, _: bool) -> Resume {
        unreachable!("nothing is substituted")
    }
}

struct Machine {
    nothing: Nothing,
    services: Services,
}

impl Platform for Machine {
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32 {
        self.nothing.port_read(port, width)
    }
    fn port_write(&mut self, port: u16, width: PortWidth, value: u32) {
        self.nothing.port_write(port, width, value);
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.nothing.mmio_read(gpa, data);
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.nothing.mmio_write(gpa, data);
    }
    fn msr_read(&mut self, index: u32) -> Result<u64, MsrFault> {
        self.nothing.msr_read(index)
    }
    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), MsrFault> {
        self.nothing.msr_write(index, value)
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.nothing.cpuid(leaf, subleaf)
    }
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }
    fn task_priority(&mut self) -> u8 {
        0
    }
    fn set_task_priority(&mut self, _: u8) {}
    fn flush_others(&mut self) {}
    fn supervisor(&mut self) -> Option<&mut dyn Supervisor> {
        Some(&mut self.services)
    }
    fn ledger(&self) -> &ambos_intercept::Ledger {
        self.nothing.ledger()
    }
    fn unserved(&self) -> &ambos_intercept::UnservedLog {
        self.nothing.unserved()
    }
}

/// A loop that makes the call in R13, adds `sum` to RBX, and that once more; R12 counts.
fn code(sum: u8) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..2 {
        // mov rax, r13; syscall; add rbx, sum
        code.extend([0x4c, 0x89, 0xe8, 0x0f, 0x05, 0x48, 0x83, 0xc3, sum]);
        // lea r14, [rsp+rbx]; push r14; pop r15: what was known of registers is not known now.
        code.extend([0x4c, 0x8d, 0x34, 0x1c, 0x41, 0x56, 0x41, 0x5f]);
    }
    // dec r12; jnz start; mov eax, END; syscall
    code.extend([0x49, 0xff, 0xcc, 0x75]);
    code.push((-(code.len() as i32 + 1)) as u8);
    code.extend([0xb8, END as u8, 0, 0, 0, 0x0f, 0x05]);
    code
}

fn start(call: u64) -> CpuState {
    let mut state = common::state();
    state.segments.cs.attributes |= 3 << 5;
    state.segments.ss.attributes |= 3 << 5;
    state.segments.cs.selector |= 3;
    state.segments.ss.selector |= 3;
    state.rip = UPPER | CODE;
    (state.gpr[4], state.gpr[12], state.gpr[13]) = (UPPER | STACK, 100, call);
    state
}

/// Two address spaces whose code adds 1 and 7.
fn install(ram: &GuestRam) {
    ram.store_word(ROOTS[0] + 511 * 8, 0x2007);
    for (index, table) in [0, 0x1000, 0x2000].into_iter().enumerate() {
        let next = ROOTS[1] + table + 0x1000;
        ram.store_word(ROOTS[1] + table + if index == 0 { 511 * 8 } else { 0 }, next | 7);
    }
    for page in 0..512 {
        let frame = if page << 12 == CODE { OTHER_CODE } else { page << 12 };
        ram.store_word(ROOTS[1] + 0x3000 + page * 8, frame | 7);
    }
    for (at, sum) in [(CODE, 1), (OTHER_CODE, 7)] {
        ram.memory().write_slice(&code(sum), GuestAddress(at)).unwrap();
    }
}

/// Runs what is installed, deprivileged.
fn run_supervised(engine: &mut dyn Engine, ram: &Arc<GuestRam>, call: u64) -> Machine {
    engine.set_state(&start(call));
    engine.deprivilege();
    let services =
        Services { ram: Arc::clone(ram), root: 0, calls: 0, permitted: false, refused: 0 };
    let mut machine = Machine { nothing: Nothing::default(), services };
    assert_eq!(engine.run(&mut machine, None), Stop::Halted);
    machine
}

/// RBX, R15 and the instruction pointer after 100 turns.
fn run(engine: &mut dyn Engine, ram: &Arc<GuestRam>, call: u64) -> [u64; 3] {
    install(ram);
    run_supervised(engine, ram, call);
    let state = engine.state();
    [state.gpr[RBX], state.gpr[15], state.rip]
}

#[test]
fn code_goes_on_as_the_supervisor_left_it() {
    let end = (UPPER | CODE) + code(1).len() as u64;
    let exchanged = (1..=200).map(|call| if call / 3 % 2 == 0 { 1 } else { 7 }).sum();
    for (call, sum) in [(ADD, 200 * 101), (SKIP, 0), (SWITCH, exchanged), (REMAP, exchanged)] {
        let (mut reference, reference_ram) = common::interpreter();
        let (mut engine, ram, _) = common::translator();
        let want = [sum, (UPPER | STACK).wrapping_add(sum), end];
        assert_eq!(run(&mut reference, &reference_ram, call), want, "{call}");
        assert_eq!(run(&mut engine, &ram, call), want, "{call}");
        assert!(engine.statistics().blocks > 0);
    }
}

/// A loop that makes the call in R13 and changes the interrupt flag; RBX counts in how many turns R12 was below 40.
fn changing_code() -> Vec<u8> {
    // mov rax, r13; syscall; cmp r12, 40; cli; sti; adc rbx, 0; cli
    let mut code = vec![0x4c, 0x89, 0xe8, 0x0f, 0x05, 0x49, 0x83, 0xfc, 40, 0xfa, 0xfb];
    code.extend([0x48, 0x83, 0xd3, 0, 0xfa]);
    // dec r12; jnz start; mov eax, END; syscall
    code.extend([0x49, 0xff, 0xcc, 0x75]);
    code.push((-(code.len() as i32 + 1)) as u8);
    code.extend([0xb8, END as u8, 0, 0, 0, 0x0f, 0x05]);
    code
}

#[test]
fn changes_of_the_interrupt_flag_do_nothing_where_they_are_permitted_and_fault_elsewhere() {
    let refused = (1..=100).filter(|call| call / 3 % 2 == 0).count() as u64 * 3;
    let (mut reference, reference_ram) = common::interpreter();
    let (mut translator, ram, _) = common::translator();
    for (engine, ram) in
        [(&mut reference as &mut dyn Engine, &reference_ram), (&mut translator, &ram)]
    {
        install(ram);
        ram.memory().write_slice(&changing_code(), GuestAddress(CODE)).unwrap();
        let machine = run_supervised(engine, ram, PERMIT);
        assert_eq!(machine.services.refused, refused);
        let counts = machine.ledger().counts();
        let changes = Intercept::Privileged(Privileged::InterruptFlag);
        let counted = counts.iter().find(|line| line.intercept == changes).unwrap();
        assert_eq!(counted.count, 300 - refused);
        let state = engine.state();
        assert_eq!(state.gpr[RBX], 39);
        assert_eq!(state.rflags & RFlags::IF.bits(), start(PERMIT).rflags & RFlags::IF.bits());
        assert!(!state.interrupt_shadow);
    }
    assert!(translator.statistics().blocks > 0);
}

/// A loop that exchanges some flags, and counts in RBX and R15 what of them was seen.
fn flags_code(exchanged: u32) -> Vec<u8> {
    // cmp r12, 40; pushfq; xor qword ptr [rsp], exchanged; popfq; adc rbx, 0
    let mut code = vec![0x49, 0x83, 0xfc, 40, 0x9c, 0x48, 0x81, 0x34, 0x24];
    code.extend(exchanged.to_le_bytes());
    code.extend([0x9d, 0x48, 0x83, 0xd3, 0]);
    // pushfq; pop rax; add r15, rax; cld
    code.extend([0x9c, 0x58, 0x49, 0x01, 0xc7, 0xfc]);
    // dec r12; jnz start; mov eax, END; syscall
    code.extend([0x49, 0xff, 0xcc, 0x75]);
    code.push((-(code.len() as i32 + 1)) as u8);
    code.extend([0xb8, END as u8, 0, 0, 0, 0x0f, 0x05]);
    code
}

#[test]
fn a_deprivileged_kernel_sets_flags_but_those_that_need_privilege() {
    let all = [RFlags::CF, RFlags::IF, RFlags::IOPL, RFlags::DF, RFlags::ID, RFlags::empty()];
    for exchanged in all {
        let code = flags_code(exchanged.bits() as u32);
        let (mut reference, reference_ram) = common::interpreter();
        let (mut translator, ram, _) = common::translator();
        let engines: [(&mut dyn Engine, _); 2] =
            [(&mut reference, &reference_ram), (&mut translator, &ram)];
        let states = engines.map(|(engine, ram)| {
            install(ram);
            ram.memory().write_slice(&code, GuestAddress(CODE)).unwrap();
            let machine = run_supervised(engine, ram, END);
            let counts = machine.ledger().counts();
            let flags = Intercept::Privileged(Privileged::Flags);
            let counted = counts.iter().find(|line| line.intercept == flags).map(|line| line.count);
            (engine.state(), counted)
        });
        let [(want, _), (got, counted)] = states;
        assert_eq!((got.gpr, got.rflags), (want.gpr, want.rflags), "{exchanged:?}");
        assert!(counted.is_some_and(|counted| counted >= 100), "{exchanged:?}");
    }
}
