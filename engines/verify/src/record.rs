//! A platform that remembers its answers, and one that gives them again.

use ambos_intercept::{Ledger, UnservedLog};
use ambos_vcpu::{MsrFault, Platform, PortWidth, Supervisor};
use std::collections::VecDeque;

/// What was asked of a platform, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    PortRead(u16, PortWidth, u32),
    PortWrite(u16, PortWidth, u32),
    MmioRead(u64, Vec<u8>),
    MmioWrite(u64, Vec<u8>),
    MsrRead(u32, Result<u64, MsrFault>),
    MsrWrite(u32, u64, Result<(), MsrFault>),
    Cpuid([u32; 2], [u32; 4]),
    Acknowledge(Option<u8>),
    TaskPriority(u8),
    SetTaskPriority(u8),
}

/// Passes everything on and remembers it.
pub(crate) struct Recorder<'a> {
    pub(crate) platform: &'a mut dyn Platform,
    pub(crate) events: VecDeque<Event>,
    /// The guest came to its supervisor.
    pub(crate) trapped: bool,
}

impl Platform for Recorder<'_> {
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32 {
        let value = self.platform.port_read(port, width);
        self.events.push_back(Event::PortRead(port, width, value));
        value
    }

    fn port_write(&mut self, port: u16, width: PortWidth, value: u32) {
        self.platform.port_write(port, width, value);
        self.events.push_back(Event::PortWrite(port, width, value));
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.platform.mmio_read(gpa, data);
        self.events.push_back(Event::MmioRead(gpa, data.to_vec()));
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.platform.mmio_write(gpa, data);
        self.events.push_back(Event::MmioWrite(gpa, data.to_vec()));
    }

    fn take_unserved(&mut self) -> Option<String> {
        self.platform.take_unserved()
    }

    fn msr_read(&mut self, index: u32) -> Result<u64, MsrFault> {
        let answer = self.platform.msr_read(index);
        self.events.push_back(Event::MsrRead(index, answer));
        answer
    }

    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), MsrFault> {
        let answer = self.platform.msr_write(index, value);
        self.events.push_back(Event::MsrWrite(index, value, answer));
        answer
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let answer = self.platform.cpuid(leaf, subleaf);
        self.events.push_back(Event::Cpuid([leaf, subleaf], answer));
        answer
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let answer = self.platform.acknowledge_interrupt();
        self.events.push_back(Event::Acknowledge(answer));
        answer
    }

    fn task_priority(&mut self) -> u8 {
        let answer = self.platform.task_priority();
        self.events.push_back(Event::TaskPriority(answer));
        answer
    }

    fn set_task_priority(&mut self, class: u8) {
        self.platform.set_task_priority(class);
        self.events.push_back(Event::SetTaskPriority(class));
    }

    fn flush_others(&mut self) {
        self.platform.flush_others();
    }

    fn supervisor(&mut self) -> Option<&mut dyn Supervisor> {
        self.trapped = true;
        self.platform.supervisor()
    }

    fn ledger(&self) -> &Ledger {
        self.platform.ledger()
    }

    fn unserved(&self) -> &UnservedLog {
        self.platform.unserved()
    }
}

/// Answers from a record. What is not in it is answered with nothing and noted.
#[derive(Debug, Default)]
pub(crate) struct Player {
    pub(crate) events: VecDeque<Event>,
    /// What was asked for first that the record does not have.
    pub(crate) astray: Option<String>,
    ledger: Ledger,
    unserved: UnservedLog,
}

impl Player {
    /// Answers from `events`.
    pub(crate) fn new(events: VecDeque<Event>) -> Self {
        Self { events, ..Self::default() }
    }

    /// The next event if `fits` it.
    fn next<T>(
        &mut self,
        asked: impl FnOnce() -> String,
        fits: impl FnOnce(&Event) -> Option<T>,
    ) -> Option<T> {
        let answer = self.events.front().and_then(fits);
        if answer.is_some() {
            self.events.pop_front();
        } else {
            self.astray.get_or_insert_with(asked);
        }
        answer
    }
}

impl Platform for Player {
    fn port_read(&mut self, port: u16, width: PortWidth) -> u32 {
        let answer = self.next(
            || format!("a read of port {port:#x}"),
            |event| match event {
                Event::PortRead(p, w, value) if (*p, *w) == (port, width) => Some(*value),
                _ => None,
            },
        );
        answer.unwrap_or(u32::MAX)
    }

    fn port_write(&mut self, port: u16, width: PortWidth, value: u32) {
        let event = Event::PortWrite(port, width, value);
        self.next(|| format!("{event:x?}"), |next| (*next == event).then_some(()));
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        let answer = self.next(
            || format!("a read of device memory at {gpa:#x}"),
            |event| match event {
                Event::MmioRead(at, value) if *at == gpa && value.len() == data.len() => {
                    Some(value.clone())
                }
                _ => None,
            },
        );
        if let Some(answer) = answer {
            data.copy_from_slice(&answer);
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        let event = Event::MmioWrite(gpa, data.to_vec());
        self.next(|| format!("{event:x?}"), |next| (*next == event).then_some(()));
    }

    fn msr_read(&mut self, index: u32) -> Result<u64, MsrFault> {
        let answer = self.next(
            || format!("a read of MSR {index:#x}"),
            |event| match event {
                Event::MsrRead(i, answer) if *i == index => Some(*answer),
                _ => None,
            },
        );
        answer.unwrap_or(Err(MsrFault))
    }

    fn msr_write(&mut self, index: u32, value: u64) -> Result<(), MsrFault> {
        let answer = self.next(
            || format!("a write of {value:#x} to MSR {index:#x}"),
            |event| match event {
                Event::MsrWrite(i, v, answer) if (*i, *v) == (index, value) => Some(*answer),
                _ => None,
            },
        );
        answer.unwrap_or(Err(MsrFault))
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let answer = self.next(
            || format!("CPUID {leaf:#x}"),
            |event| match event {
                Event::Cpuid(asked, answer) if *asked == [leaf, subleaf] => Some(*answer),
                _ => None,
            },
        );
        answer.unwrap_or_default()
    }

    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        self.next(
            || "an interrupt".to_owned(),
            |event| match event {
                Event::Acknowledge(answer) => Some(*answer),
                _ => None,
            },
        )?
    }

    fn task_priority(&mut self) -> u8 {
        let answer = self.next(
            || "the task priority".to_owned(),
            |event| match event {
                Event::TaskPriority(answer) => Some(*answer),
                _ => None,
            },
        );
        answer.unwrap_or_default()
    }

    fn set_task_priority(&mut self, class: u8) {
        let event = Event::SetTaskPriority(class);
        self.next(|| format!("{event:?}"), |next| (*next == event).then_some(()));
    }

    fn flush_others(&mut self) {}

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn unserved(&self) -> &UnservedLog {
        &self.unserved
    }
}
