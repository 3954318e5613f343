//! Keyboard and mouse at the ends of the PS/2 cables: what drivers need to recognise them.

use std::collections::VecDeque;

/// Commands and answers (IBM PS/2 Hardware Interface Technical Reference; Microsoft and Logitech
/// mouse documents).
mod spec {
    pub(super) const ACKNOWLEDGE: u8 = 0xfa;
    pub(super) const RESEND: u8 = 0xfe;
    pub(super) const SELF_TEST_PASSED: u8 = 0xaa;
    pub(super) const RESET: u8 = 0xff;
    pub(super) const IDENTIFY: u8 = 0xf2;
    pub(super) const SET_DEFAULTS: u8 = 0xf6;
    pub(super) const DISABLE: u8 = 0xf5;
    pub(super) const ENABLE: u8 = 0xf4;
    /// Typematic rate of a keyboard, sample rate of a mouse; one parameter.
    pub(super) const SET_RATE: u8 = 0xf3;

    pub(super) const KEYBOARD_LEDS: u8 = 0xed;
    pub(super) const KEYBOARD_ECHO: u8 = 0xee;
    pub(super) const KEYBOARD_SCAN_CODE_SET: u8 = 0xf0;
    /// First and last of the commands that set all or single keys' behaviour.
    pub(super) const KEYBOARD_ALL_KEYS: [u8; 2] = [0xf7, 0xfa];
    pub(super) const KEYBOARD_ID: [u8; 2] = [0xab, 0x83];

    pub(super) const MOUSE_SCALING: [u8; 2] = [0xe6, 0xe7];
    pub(super) const MOUSE_RESOLUTION: u8 = 0xe8;
    pub(super) const MOUSE_STATUS: u8 = 0xe9;
    pub(super) const MOUSE_STREAM: u8 = 0xea;
    pub(super) const MOUSE_READ: u8 = 0xeb;
    pub(super) const MOUSE_END_WRAP: u8 = 0xec;
    pub(super) const MOUSE_REMOTE: u8 = 0xf0;
    pub(super) const MOUSE_ID: u8 = 0x00;
    /// Status: data reporting is enabled.
    pub(super) const MOUSE_ENABLED: u8 = 1 << 5;
    /// Status: scaling is 2:1.
    pub(super) const MOUSE_SCALED: u8 = 1 << 4;
    /// Status: remote mode.
    pub(super) const MOUSE_IS_REMOTE: u8 = 1 << 6;
    /// First byte of a packet: always set.
    pub(super) const MOUSE_PACKET: u8 = 1 << 3;
}

/// How many bytes wait in a device at most; further answers are lost, as in a real one.
const QUEUE: usize = 16;

/// What both kinds of device have.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<u8>);

impl Answers {
    fn send(&mut self, bytes: &[u8]) {
        let room = QUEUE.saturating_sub(self.0.len());
        self.0.extend(&bytes[..bytes.len().min(room)]);
    }

    /// The next byte on the cable.
    pub(super) fn take(&mut self) -> Option<u8> {
        self.0.pop_front()
    }
}

/// A keyboard without keys.
#[derive(Debug)]
pub(super) struct Keyboard {
    pub(super) answers: Answers,
    /// The command whose parameter comes next.
    pending: Option<u8>,
    scan_code_set: u8,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self { answers: Answers::default(), pending: None, scan_code_set: 2 }
    }
}

impl Keyboard {
    /// A byte from the controller.
    pub(super) fn command(&mut self, value: u8) {
        let answer: &[u8] = match (self.pending.take(), value) {
            (Some(spec::KEYBOARD_SCAN_CODE_SET), 0) => &[spec::ACKNOWLEDGE, self.scan_code_set],
            (Some(spec::KEYBOARD_SCAN_CODE_SET), 1..=3) => {
                self.scan_code_set = value;
                &[spec::ACKNOWLEDGE]
            }
            (Some(spec::KEYBOARD_SCAN_CODE_SET), _) => &[spec::RESEND],
            (Some(_), _) => &[spec::ACKNOWLEDGE],
            (None, spec::RESET) => {
                *self = Self::default();
                &[spec::ACKNOWLEDGE, spec::SELF_TEST_PASSED]
            }
            (None, spec::IDENTIFY) => {
                let [first, second] = spec::KEYBOARD_ID;
                &[spec::ACKNOWLEDGE, first, second]
            }
            (None, spec::KEYBOARD_ECHO) => &[spec::KEYBOARD_ECHO],
            (None, spec::KEYBOARD_LEDS | spec::SET_RATE | spec::KEYBOARD_SCAN_CODE_SET) => {
                self.pending = Some(value);
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::SET_DEFAULTS | spec::DISABLE) => {
                self.scan_code_set = 2;
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::ENABLE) => &[spec::ACKNOWLEDGE],
            (None, _)
                if (spec::KEYBOARD_ALL_KEYS[0]..=spec::KEYBOARD_ALL_KEYS[1]).contains(&value) =>
            {
                &[spec::ACKNOWLEDGE]
            }
            (None, _) => &[spec::RESEND],
        };
        self.answers.send(answer);
    }
}

/// A mouse with three buttons that nobody moves.
#[derive(Debug)]
pub(super) struct Mouse {
    pub(super) answers: Answers,
    /// The command whose parameter comes next.
    pending: Option<u8>,
    status: u8,
    resolution: u8,
    rate: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Self { answers: Answers::default(), pending: None, status: 0, resolution: 2, rate: 100 }
    }
}

impl Mouse {
    /// A byte from the controller.
    pub(super) fn command(&mut self, value: u8) {
        let set = |status: &mut u8, bit: u8, on: bool| {
            *status = if on { *status | bit } else { *status & !bit };
        };
        let answer: &[u8] = match (self.pending.take(), value) {
            (Some(spec::MOUSE_RESOLUTION), _) => {
                self.resolution = value & 3;
                &[spec::ACKNOWLEDGE]
            }
            (Some(_), _) => {
                self.rate = value;
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::RESET) => {
                *self = Self::default();
                &[spec::ACKNOWLEDGE, spec::SELF_TEST_PASSED, spec::MOUSE_ID]
            }
            (None, spec::SET_DEFAULTS) => {
                let answers = std::mem::take(&mut self.answers);
                *self = Self { answers, ..Self::default() };
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::IDENTIFY) => &[spec::ACKNOWLEDGE, spec::MOUSE_ID],
            (None, spec::SET_RATE | spec::MOUSE_RESOLUTION) => {
                self.pending = Some(value);
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::ENABLE | spec::DISABLE) => {
                set(&mut self.status, spec::MOUSE_ENABLED, value == spec::ENABLE);
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::MOUSE_STREAM | spec::MOUSE_REMOTE) => {
                set(&mut self.status, spec::MOUSE_IS_REMOTE, value == spec::MOUSE_REMOTE);
                &[spec::ACKNOWLEDGE]
            }
            (None, _) if spec::MOUSE_SCALING.contains(&value) => {
                set(&mut self.status, spec::MOUSE_SCALED, value == spec::MOUSE_SCALING[1]);
                &[spec::ACKNOWLEDGE]
            }
            (None, spec::MOUSE_STATUS) => {
                &[spec::ACKNOWLEDGE, self.status, self.resolution, self.rate]
            }
            (None, spec::MOUSE_READ) => &[spec::ACKNOWLEDGE, spec::MOUSE_PACKET, 0, 0],
            (None, spec::MOUSE_END_WRAP) => &[spec::ACKNOWLEDGE],
            (None, _) => &[spec::RESEND],
        };
        self.answers.send(answer);
    }
}
