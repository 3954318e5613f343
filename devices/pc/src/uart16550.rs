//! The 16550 serial port.
//!
//! The registers are `vm-superio`'s. This module puts a queue in front of the receive FIFO, so that
//! a host may send faster than the guest reads and nothing is lost, and turns triggers into edges on
//! the interrupt wire. An edge is enough: a driver looks at the registers until they are quiet.

use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_wire::Wire;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Write;
use vm_superio::Serial;
use vm_superio::Trigger;
use vm_superio::serial::NoEvents;

/// Registers (PC16550D data sheet, National Semiconductor, 1995).
mod spec {
    /// Number of registers.
    pub(super) const PORTS: u16 = 8;
    /// Receive and transmit buffer, or divisor.
    pub(super) const DATA: u16 = 0;
    /// Modem control.
    pub(super) const MODEM_CONTROL: u16 = 4;
}

/// Raises the interrupt wire for an instant.
#[derive(Debug)]
struct Edge(Wire);

impl Trigger for Edge {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.pulse();
        Ok(())
    }
}

/// A serial port.
pub struct Uart {
    // Dependencies; the registers hold the wire and the output.
    registers: Serial<Edge, NoEvents, Box<dyn Write + Send>>,

    // Configuration.
    /// Size of the receive FIFO.
    fifo: usize,

    // Volatile state.
    /// Bytes for the guest that the receive FIFO has no room for.
    waiting: VecDeque<u8>,
}

impl std::fmt::Debug for Uart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uart").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Uart {
    /// How many bytes wait for the guest at most.
    pub const QUEUE: usize = 1 << 16;

    /// A serial port that interrupts through `interrupt` and sends to `output`. Bytes that `output`
    /// refuses are lost, as on a cable that is not plugged in. It is flushed after each byte.
    pub fn new(interrupt: Wire, output: Box<dyn Write + Send>) -> Self {
        let registers = Serial::new(Edge(interrupt), output);
        Self { fifo: registers.fifo_capacity(), registers, waiting: VecDeque::new() }
    }

    /// Sends bytes to the guest; returns how many of them were taken. The rest found
    /// [`Uart::QUEUE`] bytes waiting already.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = Self::QUEUE.saturating_sub(self.waiting.len());
        let taken = &bytes[..bytes.len().min(room)];
        self.waiting.extend(taken);
        self.fill_fifo();
        taken.len()
    }

    /// How many bytes wait for the guest outside the receive FIFO.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn fill_fifo(&mut self) {
        while !self.waiting.is_empty() && self.registers.fifo_capacity() > 0 {
            // In loop-back mode the FIFO takes nothing from outside.
            let taken = self.registers.enqueue_raw_bytes(self.waiting.as_slices().0).unwrap_or(0);
            if taken == 0 {
                break;
            }
            self.waiting.drain(..taken);
        }
    }

    fn read_register(&mut self, offset: u16) -> Result<u8, AccessError> {
        if offset >= spec::PORTS {
            return Err(AccessError::NoRegister);
        }
        let value = self.registers.read(offset as u8);
        // One interrupt for a FIFO full of bytes, not one for each.
        if offset == spec::DATA && self.registers.fifo_capacity() == self.fifo {
            self.fill_fifo();
        }
        Ok(value)
    }

    fn write_register(&mut self, offset: u16, value: u8) -> Result<(), AccessError> {
        if offset >= spec::PORTS {
            return Err(AccessError::NoRegister);
        }
        // An error says that the host did not take the byte; a serial line cannot tell.
        let _ = self.registers.write(offset as u8, value);
        if offset == spec::MODEM_CONTROL {
            self.fill_fifo();
        }
        Ok(())
    }
}

impl PortDevice for Uart {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        read_bytes(offset, data, |offset| self.read_register(offset))
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        write_bytes(offset, data, |offset, value| self.write_register(offset, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_wire::{InputPin, Inputs};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[derive(Default)]
    struct Edges(usize);

    impl Inputs for Edges {
        fn set_input(&mut self, _line: u32, level: bool) {
            self.0 += usize::from(level);
        }
    }

    fn uart() -> (Uart, Sink, Arc<Mutex<Edges>>) {
        let sink = Sink::default();
        let edges = Arc::new(Mutex::new(Edges::default()));
        let wire = InputPin::new(edges.clone(), 4).wire("16550");
        (Uart::new(wire, Box::new(sink.clone())), sink, edges)
    }

    fn byte(uart: &mut Uart, offset: u16) -> u8 {
        let mut data = [0];
        uart.read(offset, &mut data).unwrap();
        data[0]
    }

    #[test]
    fn output_is_complete_and_in_order() {
        let (mut uart, sink, _) = uart();
        let text: Vec<u8> = (0..10_000u32).map(|index| index as u8).collect();
        for &value in &text {
            assert_eq!(byte(&mut uart, 5) & 0x60, 0x60);
            uart.write(0, &[value]).unwrap();
        }
        assert_eq!(*sink.0.lock().unwrap(), text);
    }

    #[test]
    fn input_faster_than_the_guest_is_not_lost() {
        let (mut uart, _, edges) = uart();
        uart.write(1, &[1]).unwrap();
        edges.lock().unwrap().0 = 0;
        let text: Vec<u8> = (0..1000u32).map(|index| (index * 7) as u8).collect();
        assert_eq!(uart.receive(&text), text.len());
        let mut seen = Vec::new();
        while byte(&mut uart, 5) & 1 != 0 {
            seen.push(byte(&mut uart, 0));
        }
        assert_eq!(seen, text);
        assert_eq!(edges.lock().unwrap().0, 1000_usize.div_ceil(64));
    }

    #[test]
    fn the_queue_is_bounded() {
        let (mut uart, ..) = uart();
        let taken: usize = (0..4).map(|_| uart.receive(&[0; Uart::QUEUE / 2])).sum();
        assert!((Uart::QUEUE..=Uart::QUEUE + 64).contains(&taken));
        assert_eq!(uart.waiting(), Uart::QUEUE);
    }

    #[test]
    fn loop_back_keeps_host_input_for_later() {
        let (mut uart, sink, _) = uart();
        uart.write(4, &[0x10]).unwrap();
        uart.write(0, b"x").unwrap();
        uart.receive(b"abc");
        assert_eq!(byte(&mut uart, 0), b'x');
        assert_eq!(byte(&mut uart, 5) & 1, 0);
        uart.write(4, &[0x08]).unwrap();
        assert_eq!([0; 3].map(|_| byte(&mut uart, 0)), *b"abc");
        assert!(sink.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_driver_hears_of_data_and_of_room() {
        let (mut uart, _, edges) = uart();
        uart.write(1, &[3]).unwrap();
        assert_eq!(edges.lock().unwrap().0, 1);
        assert_eq!(byte(&mut uart, 2) & 0x0f, 2);
        uart.receive(b"a");
        assert_eq!(edges.lock().unwrap().0, 2);
        assert_eq!(byte(&mut uart, 2) & 0x0f, 4);
    }

    #[test]
    fn any_sequence_of_accesses_is_survived() {
        let (mut uart, ..) = uart();
        let mut random = crate::testing::Random::new(4);
        for _ in 0..100_000 {
            let offset = random.below(9) as u16;
            random.access(&mut uart, offset);
            let input = vec![0x55; random.below(100)];
            uart.receive(&input);
        }
    }
}
