//! The 8042 keyboard controller with a PS/2 keyboard and mouse.
//!
//! Complete as far as drivers look: they find both devices, talk to them, switch the A20 gate
//! (which has no effect: the address line is always on), and reset the machine.

mod ps2;

use crate::power::{PowerRequest, PowerSink};
use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_wire::Wire;
use ps2::{Keyboard, Mouse};
use std::sync::Arc;

/// Registers and commands (IBM PS/2 Hardware Interface Technical Reference, "Keyboard and auxiliary
/// device controller").
mod spec {
    use bitflags::bitflags;

    bitflags! {
        /// Status register.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Status: u8 {
            const OUTPUT_FULL = 1 << 0;
            const SYSTEM = 1 << 2;
            /// The last byte written was a command.
            const COMMAND = 1 << 3;
            /// The keyboard is not locked.
            const UNLOCKED = 1 << 4;
            /// The byte in the output buffer comes from the mouse.
            const FROM_MOUSE = 1 << 5;
        }
    }

    bitflags! {
        /// Command byte.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct Mode: u8 {
            const KEYBOARD_INTERRUPT = 1 << 0;
            const MOUSE_INTERRUPT = 1 << 1;
            const SYSTEM = 1 << 2;
            const KEYBOARD_DISABLED = 1 << 4;
            const MOUSE_DISABLED = 1 << 5;
            const TRANSLATE = 1 << 6;
            const _ = !0;
        }
    }

    pub(super) const READ_MODE: u8 = 0x20;
    pub(super) const WRITE_MODE: u8 = 0x60;
    pub(super) const DISABLE_MOUSE: u8 = 0xa7;
    pub(super) const ENABLE_MOUSE: u8 = 0xa8;
    pub(super) const TEST_MOUSE: u8 = 0xa9;
    pub(super) const SELF_TEST: u8 = 0xaa;
    pub(super) const TEST_KEYBOARD: u8 = 0xab;
    pub(super) const DISABLE_KEYBOARD: u8 = 0xad;
    pub(super) const ENABLE_KEYBOARD: u8 = 0xae;
    pub(super) const READ_INPUT_PORT: u8 = 0xc0;
    pub(super) const READ_OUTPUT_PORT: u8 = 0xd0;
    pub(super) const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub(super) const ECHO_AS_KEYBOARD: u8 = 0xd2;
    pub(super) const ECHO_AS_MOUSE: u8 = 0xd3;
    pub(super) const WRITE_MOUSE: u8 = 0xd4;
    pub(super) const DISABLE_A20: u8 = 0xdd;
    pub(super) const ENABLE_A20: u8 = 0xdf;
    /// First of the commands that pulse output pins; a zero bit is a pulse.
    pub(super) const PULSE: u8 = 0xf0;

    /// Answer of the self-test.
    pub(super) const SELF_TEST_PASSED: u8 = 0x55;
    /// Answer of the tests of the cables.
    pub(super) const TEST_PASSED: u8 = 0x00;
    /// Input port: keyboard not locked, colour display.
    pub(super) const INPUT_PORT: u8 = 0x80;
    /// Output port: low resets.
    pub(super) const NOT_RESET: u8 = 1 << 0;
    /// Output port: the A20 gate.
    pub(super) const A20: u8 = 1 << 1;

    /// Scan codes of set 2 in set 1, for codes below 0x80.
    pub(super) const TRANSLATION: [u8; 128] = [
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29,
        0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11,
        0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14,
        0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
        0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35,
        0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36,
        0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c,
        0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
        0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
    ];

    /// A byte of the keyboard in translation.
    pub(super) const fn translated(code: u8) -> u8 {
        match code {
            0x00..=0x7f => TRANSLATION[code as usize],
            0x83 => 0x41,
            0x84 => 0x54,
            other => other,
        }
    }
}

use spec::{Mode, Status};

/// A byte in the output buffer.
#[derive(Debug, Clone, Copy)]
struct Output {
    value: u8,
    mouse: bool,
}

/// The controller and the devices behind it.
pub struct I8042 {
    // Dependencies.
    keyboard_interrupt: Wire,
    mouse_interrupt: Wire,
    power: Arc<dyn PowerSink>,

    // Volatile state.
    keyboard: Keyboard,
    mouse: Mouse,
    mode: Mode,
    output: Option<Output>,
    /// The last byte taken from the output buffer: what the data port shows while it is empty.
    last: u8,
    output_port: u8,
    /// The command whose parameter comes next.
    pending: Option<u8>,
    was_command: bool,
}

impl I8042 {
    /// Offset of the data port.
    pub const DATA: u16 = 0;
    /// Offset of the command and status port.
    pub const COMMAND: u16 = 4;

    /// A controller as firmware leaves it: both devices enabled, A20 on.
    pub fn new(keyboard: Wire, mouse: Wire, power: Arc<dyn PowerSink>) -> Self {
        Self {
            keyboard_interrupt: keyboard,
            mouse_interrupt: mouse,
            power,
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            mode: Mode::KEYBOARD_INTERRUPT | Mode::SYSTEM | Mode::TRANSLATE,
            output: None,
            last: 0,
            output_port: spec::NOT_RESET | spec::A20,
            pending: None,
            was_command: false,
        }
    }

    /// Fills the output buffer if it is empty, and drives the interrupts.
    fn update(&mut self) {
        if self.output.is_none() && !self.mode.contains(Mode::KEYBOARD_DISABLED) {
            let translate = self.mode.contains(Mode::TRANSLATE);
            self.output = self.keyboard.answers.take().map(|value| {
                let value = if translate { spec::translated(value) } else { value };
                Output { value, mouse: false }
            });
        }
        if self.output.is_none() && !self.mode.contains(Mode::MOUSE_DISABLED) {
            let answer = self.mouse.answers.take();
            self.output = answer.map(|value| Output { value, mouse: true });
        }
        let full = |mouse| self.output.is_some_and(|output| output.mouse == mouse);
        let keyboard = full(false) && self.mode.contains(Mode::KEYBOARD_INTERRUPT);
        let mouse = full(true) && self.mode.contains(Mode::MOUSE_INTERRUPT);
        self.keyboard_interrupt.set_level(keyboard);
        self.mouse_interrupt.set_level(mouse);
    }

    /// Puts an answer of the controller itself into the output buffer, over what is there.
    fn answer(&mut self, value: u8) {
        self.output = Some(Output { value, mouse: false });
    }

    fn status(&self) -> Status {
        let mut status = Status::UNLOCKED;
        status.set(Status::SYSTEM, self.mode.contains(Mode::SYSTEM));
        status.set(Status::OUTPUT_FULL, self.output.is_some());
        status.set(Status::FROM_MOUSE, self.output.is_some_and(|output| output.mouse));
        status.set(Status::COMMAND, self.was_command);
        status
    }

    fn read_data(&mut self) -> u8 {
        if let Some(output) = self.output.take() {
            self.last = output.value;
        }
        // The interrupt falls between two bytes, so that each makes an edge.
        self.keyboard_interrupt.set_level(false);
        self.mouse_interrupt.set_level(false);
        self.last
    }

    fn command(&mut self, command: u8) {
        self.pending = None;
        match command {
            spec::READ_MODE => self.answer(self.mode.bits()),
            spec::WRITE_MODE
            | spec::WRITE_OUTPUT_PORT
            | spec::ECHO_AS_KEYBOARD
            | spec::ECHO_AS_MOUSE
            | spec::WRITE_MOUSE => self.pending = Some(command),
            spec::DISABLE_MOUSE => self.mode.insert(Mode::MOUSE_DISABLED),
            spec::ENABLE_MOUSE => self.mode.remove(Mode::MOUSE_DISABLED),
            spec::DISABLE_KEYBOARD => self.mode.insert(Mode::KEYBOARD_DISABLED),
            spec::ENABLE_KEYBOARD => self.mode.remove(Mode::KEYBOARD_DISABLED),
            spec::TEST_MOUSE | spec::TEST_KEYBOARD => self.answer(spec::TEST_PASSED),
            spec::SELF_TEST => {
                self.mode.insert(Mode::SYSTEM);
                self.answer(spec::SELF_TEST_PASSED);
            }
            spec::READ_INPUT_PORT => self.answer(spec::INPUT_PORT),
            spec::READ_OUTPUT_PORT => self.answer(self.output_port),
            spec::DISABLE_A20 => self.output_port &= !spec::A20,
            spec::ENABLE_A20 => self.output_port |= spec::A20,
            spec::PULSE.. if command & spec::NOT_RESET == 0 => {
                self.power.request(PowerRequest::Reset);
            }
            // Commands of particular keyboards' controllers are ignored, as everywhere.
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.pending.take() {
            Some(spec::WRITE_MODE) => self.mode = Mode::from_bits_retain(value),
            Some(spec::WRITE_OUTPUT_PORT) => {
                self.output_port = value;
                if value & spec::NOT_RESET == 0 {
                    self.power.request(PowerRequest::Reset);
                }
            }
            Some(spec::ECHO_AS_KEYBOARD) => self.answer(value),
            Some(spec::ECHO_AS_MOUSE) => self.output = Some(Output { value, mouse: true }),
            Some(spec::WRITE_MOUSE) => {
                self.mode.remove(Mode::MOUSE_DISABLED);
                self.mouse.command(value);
            }
            _ => {
                self.mode.remove(Mode::KEYBOARD_DISABLED);
                self.keyboard.command(value);
            }
        }
    }
}

impl PortDevice for I8042 {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let result = read_bytes(offset, data, |offset| match offset {
            Self::DATA => Ok(self.read_data()),
            Self::COMMAND => Ok(self.status().bits()),
            _ => Err(AccessError::NoRegister),
        });
        self.update();
        result
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let result = write_bytes(offset, data, |offset, value| {
            match offset {
                Self::DATA => self.data(value),
                Self::COMMAND => self.command(value),
                _ => return Err(AccessError::NoRegister),
            }
            self.was_command = offset == Self::COMMAND;
            Ok(())
        });
        self.update();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, Requests};

    fn controller() -> (I8042, Arc<Requests>) {
        let requests = Arc::new(Requests::default());
        let wires = (Wire::unconnected("IRQ 1"), Wire::unconnected("IRQ 12"));
        (I8042::new(wires.0, wires.1, requests.clone()), requests)
    }

    fn status(controller: &mut I8042) -> u8 {
        let mut data = [0];
        controller.read(I8042::COMMAND, &mut data).unwrap();
        data[0]
    }

    fn command(controller: &mut I8042, command: u8, parameter: &[u8]) {
        controller.write(I8042::COMMAND, &[command]).unwrap();
        for byte in parameter {
            controller.write(I8042::DATA, &[*byte]).unwrap();
        }
    }

    /// Everything that the controller has to say, with where it comes from.
    fn answers(controller: &mut I8042) -> Vec<(u8, bool)> {
        let mut answers = Vec::new();
        while status(controller) & 1 != 0 {
            let mouse = status(controller) & 0x20 != 0;
            let mut data = [0];
            controller.read(I8042::DATA, &mut data).unwrap();
            answers.push((data[0], mouse));
        }
        answers
    }

    fn bytes(controller: &mut I8042) -> Vec<u8> {
        answers(controller).into_iter().map(|(byte, _)| byte).collect()
    }

    #[test]
    fn a_driver_finds_the_controller() {
        let (mut controller, _) = controller();
        command(&mut controller, 0x20, &[]);
        assert_eq!(bytes(&mut controller), [0x45]);
        command(&mut controller, 0x60, &[0x74]);
        command(&mut controller, 0x20, &[]);
        assert_eq!(bytes(&mut controller), [0x74]);
        command(&mut controller, 0xaa, &[]);
        assert_eq!(bytes(&mut controller), [0x55]);
        command(&mut controller, 0xab, &[]);
        assert_eq!(bytes(&mut controller), [0x00]);
        command(&mut controller, 0xd3, &[0x5a]);
        assert_eq!(answers(&mut controller), [(0x5a, true)]);
        command(&mut controller, 0xa7, &[]);
        command(&mut controller, 0x20, &[]);
        assert_eq!(bytes(&mut controller)[0] & 0x20, 0x20);
        command(&mut controller, 0xa8, &[]);
        command(&mut controller, 0x20, &[]);
        assert_eq!(bytes(&mut controller)[0] & 0x20, 0);
    }

    #[test]
    fn a_driver_finds_the_keyboard() {
        let (mut controller, _) = controller();
        for (sent, wanted) in [
            (&[0xff][..], &[0xfa, 0xaa][..]),
            (&[0xf2], &[0xfa, 0xab, 0x41]),
            (&[0xed, 0x02], &[0xfa, 0xfa]),
            (&[0xf0, 0x00], &[0xfa, 0xfa, 0x41]),
            (&[0xf4], &[0xfa]),
            (&[0x01], &[0xfe]),
        ] {
            for byte in sent {
                controller.write(I8042::DATA, &[*byte]).unwrap();
            }
            assert_eq!(bytes(&mut controller), wanted, "{sent:x?}");
        }
        command(&mut controller, 0x60, &[0x05]);
        controller.write(I8042::DATA, &[0xf2]).unwrap();
        assert_eq!(bytes(&mut controller), [0xfa, 0xab, 0x83]);
    }

    #[test]
    fn a_driver_finds_the_mouse() {
        let (mut controller, _) = controller();
        for (sent, wanted) in [
            (&[0xff][..], &[0xfa, 0xaa, 0x00][..]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe8, 0x03], &[0xfa, 0xfa]),
            (&[0xf3, 200], &[0xfa, 0xfa]),
            (&[0xf4], &[0xfa]),
            (&[0xe9], &[0xfa, 0x20, 3, 200]),
        ] {
            for byte in sent {
                command(&mut controller, 0xd4, &[*byte]);
            }
            let answers = answers(&mut controller);
            assert!(answers.iter().all(|(_, mouse)| *mouse));
            let answers: Vec<u8> = answers.into_iter().map(|(byte, _)| byte).collect();
            assert_eq!(answers, wanted, "{sent:x?}");
        }
    }

    #[test]
    fn interrupts_follow_the_output_buffer() {
        let (mut controller, _) = controller();
        controller.write(I8042::DATA, &[0xee]).unwrap();
        assert!(controller.keyboard_interrupt.level());
        bytes(&mut controller);
        assert!(!controller.keyboard_interrupt.level());
        command(&mut controller, 0xd4, &[0xf4]);
        assert!(!controller.mouse_interrupt.level());
        command(&mut controller, 0x60, &[0x47]);
        assert!(controller.mouse_interrupt.level());
        command(&mut controller, 0x60, &[0x40]);
        assert!(!controller.mouse_interrupt.level());
    }

    #[test]
    fn resets() {
        let (mut controller, requests) = controller();
        command(&mut controller, 0xff, &[]);
        assert!(requests.take().is_empty());
        command(&mut controller, 0xfe, &[]);
        assert_eq!(requests.take(), [PowerRequest::Reset]);
        command(&mut controller, 0xd1, &[0x03]);
        assert!(requests.take().is_empty());
        command(&mut controller, 0xd1, &[0x02]);
        assert_eq!(requests.take(), [PowerRequest::Reset]);
    }

    #[test]
    fn the_a20_gate_reads_back() {
        let (mut controller, _) = controller();
        for (sent, wanted) in [(0xdd, 0), (0xdf, 2)] {
            command(&mut controller, sent, &[]);
            command(&mut controller, 0xd0, &[]);
            assert_eq!(bytes(&mut controller)[0] & 2, wanted);
        }
    }

    #[test]
    fn any_sequence_of_accesses_is_survived() {
        let (mut controller, requests) = controller();
        let mut random = Random::new(10);
        for _ in 0..200_000 {
            let offset = [0, 4, 1][random.below(3)];
            random.access(&mut controller, offset);
            requests.take();
        }
    }
}
