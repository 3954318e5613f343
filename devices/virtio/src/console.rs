//! The console (section 5.3): one port, which Linux calls `hvc0`.
//!
//! What the guest prints goes out on the vCPU that prints it. What is typed waits in a bounded
//! buffer until the driver has room for it.

use crate::device::{DeviceKind, Doorbell, VirtioDevice, read_bytes};
use crate::queue::{Broken, QueueAccess};
use crate::ranges::{self, take_front, total};
use ambos_memory::{DmaRange, GuestRam};
use bitflags::bitflags;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

bitflags! {
    /// The device's own features (section 5.3.3).
    struct Features: u64 {
        /// The configuration says how large the console is.
        const SIZE = 1 << 0;
        /// A character can be written without a queue.
        const EMERGENCY_WRITE = 1 << 2;
    }
}

/// Queues by number.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Requests that a queue holds.
const QUEUE_SIZE: u16 = 256;
/// Offset in the configuration space of the register for characters without a queue.
const EMERGENCY: u64 = 8;
/// Most typed bytes that wait for the driver.
const TYPED_MAX: usize = 64 << 10;
/// Bytes that are copied at a time.
const PIECE: usize = 4096;

/// What the device and those in front of the machine share.
#[derive(Default)]
struct State {
    typed: VecDeque<u8>,
    /// Columns and rows; zero if nobody knows.
    size: (u16, u16),
    /// Whether the guest has printed anything.
    printed: bool,
    doorbell: Option<Doorbell>,
}

/// Types on a console, from any thread.
#[derive(Clone, Default)]
pub struct ConsoleKeyboard(Arc<Mutex<State>>);

impl ConsoleKeyboard {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Types; returns how many bytes were taken.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let (taken, doorbell) = {
            let mut state = self.lock();
            let taken = bytes.len().min(TYPED_MAX - state.typed.len());
            state.typed.extend(&bytes[..taken]);
            (taken, state.doorbell.clone())
        };
        // The device takes its own lock first, then this one.
        if let Some(doorbell) = doorbell {
            doorbell.ring(&[RECEIVE]);
        }
        taken
    }

    /// Says how large the window is that shows the console.
    pub fn resize(&self, columns: u16, rows: u16) {
        let doorbell = {
            let mut state = self.lock();
            state.size = (columns, rows);
            state.doorbell.clone()
        };
        if let Some(doorbell) = doorbell {
            doorbell.configuration_changed();
        }
    }

    /// Whether the guest has printed something on this console, so that it is one for it.
    pub fn is_in_use(&self) -> bool {
        self.lock().printed
    }
}

/// A console.
pub struct ConsoleDevice {
    output: Box<dyn Write + Send>,
    keyboard: ConsoleKeyboard,
}

impl ConsoleDevice {
    /// A console that prints to `output`. What is typed on `keyboard` reaches the guest.
    pub fn new(output: Box<dyn Write + Send>, keyboard: ConsoleKeyboard) -> Self {
        Self { output, keyboard }
    }

    fn print(&mut self, bytes: &[u8]) {
        // First, because who sees the output may type an answer at once.
        self.keyboard.lock().printed |= !bytes.is_empty();
        // Whoever gave us the output learns of its failures there; the guest cannot help them.
        let _ = self.output.write_all(bytes);
        let _ = self.output.flush();
    }

    fn print_ranges(&mut self, ram: &GuestRam, mut data: Vec<DmaRange>) -> Result<(), Broken> {
        let mut piece = [0; PIECE];
        loop {
            let length = total(&data).min(PIECE as u64);
            if length == 0 {
                return Ok(());
            }
            let place = take_front(&mut data, length).ok_or(Broken)?;
            let piece = &mut piece[..length as usize];
            ranges::read(ram, &place, piece).map_err(|_| Broken)?;
            self.print(piece);
        }
    }

    /// Puts what was typed into the driver's buffers.
    fn receive(&mut self, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        loop {
            let mut state = self.keyboard.lock();
            if state.typed.is_empty() {
                return Ok(());
            }
            let mut room = Vec::new();
            let Some(mut buffer) = queue.pop_buffer(&mut room) else {
                if !queue.is_exhausted() && queue.ask_for_more()? {
                    continue;
                }
                return Ok(());
            };
            let length = total(&room).min(state.typed.len().min(PIECE) as u64);
            let place = take_front(&mut room, length).ok_or(Broken)?;
            let bytes: Vec<u8> = state.typed.drain(..length as usize).collect();
            drop(state);
            ranges::write(queue.ram(), &place, &bytes).map_err(|_| Broken)?;
            buffer.written = length as u32;
            queue.complete_together(&[buffer])?;
        }
    }
}

impl VirtioDevice for ConsoleDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind { id: 3, class: [7, 0x80, 0] }
    }

    fn features(&self) -> u64 {
        Features::all().bits()
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.keyboard.lock().size;
        let mut config = [0; 12];
        config[..2].copy_from_slice(&columns.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        // One port.
        config[4] = 1;
        read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (EMERGENCY, [character, ..]) = (offset, data) {
            self.print(&[*character]);
        }
    }

    fn connect(&mut self, doorbell: Doorbell) {
        let mut state = self.keyboard.lock();
        state.doorbell = Some(doorbell);
        state.printed = false;
    }

    fn set_features(&mut self, _features: u64) {}

    fn reset(&mut self) {
        self.keyboard.lock().printed = false;
    }

    fn serve(&mut self, index: usize, queue: &mut QueueAccess<'_>) -> Result<(), Broken> {
        match index {
            RECEIVE => self.receive(queue),
            TRANSMIT => queue.serve_all(|ram, chain| {
                self.print_ranges(ram, chain.readable)?;
                Ok(Some(0))
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, Random};

    #[derive(Clone, Default)]
    struct Printed(Arc<Mutex<Vec<u8>>>);

    impl Write for Printed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const VERSION_1: u64 = 1 << 32;
    const DATA: u64 = 0x8000;

    fn bench(queue: usize) -> (Driver, Printed, ConsoleKeyboard) {
        let (printed, keyboard) = (Printed::default(), ConsoleKeyboard::default());
        let device = ConsoleDevice::new(Box::new(printed.clone()), keyboard.clone());
        let driver = Driver::with_queue(Box::new(device), queue as u16);
        driver.start(VERSION_1 | Features::all().bits());
        (driver, printed, keyboard)
    }

    #[test]
    fn what_the_guest_prints_comes_out() {
        let (mut driver, printed, keyboard) = bench(TRANSMIT);
        assert!(!keyboard.is_in_use());
        let text: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        driver.put(DATA, &text);
        driver.submit(&[(DATA, 5000, false), (DATA + 5000, 5000, false)], false);
        driver.notify();
        assert_eq!(driver.served(), Some(0));
        assert_eq!(*printed.0.lock().unwrap(), text);
        assert!(keyboard.is_in_use());
        driver.write(0x2000 + EMERGENCY, b"!\0\0\0");
        assert_eq!(printed.0.lock().unwrap().last(), Some(&b'!'));
    }

    #[test]
    fn what_is_typed_waits_for_buffers() {
        let (mut driver, _, keyboard) = bench(RECEIVE);
        assert_eq!(keyboard.type_in(b"hello"), 5);
        driver.submit(&[(DATA, 3, true)], false);
        driver.notify();
        assert_eq!(driver.served(), Some(3));
        assert_eq!(driver.get(DATA, 3), b"hel");
        driver.submit(&[(DATA, 100, true)], false);
        driver.notify();
        assert_eq!(driver.served(), Some(2));
        assert_eq!(driver.get(DATA, 2), b"lo");
        driver.submit(&[(DATA, 100, true)], false);
        driver.notify();
        assert_eq!(driver.served(), None);
        assert_eq!(keyboard.type_in(b"x"), 1);
        assert_eq!(driver.served(), Some(1));
        assert_eq!(keyboard.type_in(&[0; TYPED_MAX + 1]), TYPED_MAX);
    }

    #[test]
    fn a_new_size_is_announced() {
        let (driver, _, keyboard) = bench(TRANSMIT);
        driver.use_messages();
        driver.write(16, &[1, 0]);
        let generation = driver.read(21, 1);
        keyboard.resize(132, 43);
        assert_eq!(driver.messages.take(), [(0xfee0_0000, 0x41)]);
        assert_ne!(driver.read(21, 1), generation);
        assert_eq!(driver.read(0x2000, 4), 43 << 16 | 132);
    }

    #[test]
    fn any_request_is_survived() {
        let mut random = Random::new(7);
        for queue in [RECEIVE, TRANSMIT] {
            let (mut driver, _, keyboard) = bench(queue);
            for _ in 0..1000 {
                keyboard.type_in(&random.next().to_le_bytes());
                driver.submit_random(&mut random, DATA);
                driver.notify();
            }
        }
    }
}
