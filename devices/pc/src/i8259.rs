//! The pair of 8259A interrupt controllers, with the edge/level control registers of later chipsets.
//!
//! The second chip's output drives input 2 of the first one. The pair's output drives a wire that
//! ends at the local APICs' LINT0 pins; whichever vCPU takes the interrupt asks [`PicPair`] for the
//! vector by [`PicPair::acknowledge`].
//!
//! Differences from the silicon: an edge stays latched although its line falls before it is
//! acknowledged, so that devices may pulse their lines; the modes for 8080 processors do not exist;
//! level or edge is chosen by the edge/level registers alone, as in the 82371.

use ambos_device::{AccessError, PortDevice, read_bytes, write_bytes};
use ambos_wire::{Inputs, Wire};

/// Registers (Intel 8259A data sheet, 231468-003; ELCR: Intel 82371FB/SB data sheet, 290550-002).
mod spec {
    /// ICW1 marker in writes to the command port.
    pub(super) const ICW1: u8 = 1 << 4;
    /// ICW1: ICW4 follows.
    pub(super) const ICW1_NEEDS_ICW4: u8 = 1 << 0;
    /// ICW1: no second chip, ICW3 does not follow.
    pub(super) const ICW1_SINGLE: u8 = 1 << 1;
    /// ICW4: end of interrupt happens by itself.
    pub(super) const ICW4_AUTO_EOI: u8 = 1 << 1;
    /// ICW4: special fully nested mode.
    pub(super) const ICW4_SPECIAL_NESTED: u8 = 1 << 4;
    /// OCW3 marker in writes to the command port.
    pub(super) const OCW3: u8 = 1 << 3;
    /// OCW3: the next read polls.
    pub(super) const OCW3_POLL: u8 = 1 << 2;
    /// OCW3: bit 0 selects the register to read.
    pub(super) const OCW3_READ: u8 = 1 << 1;
    /// OCW3: bit 5 sets special mask mode.
    pub(super) const OCW3_SET_SPECIAL_MASK: u8 = 1 << 6;
    /// The first chip's input that the second one drives.
    pub(super) const CASCADE: u8 = 2;
    /// Inputs whose trigger mode can be chosen: not 0, 1, 2.
    pub(super) const ELCR_MASTER: u8 = 0xf8;
    /// Inputs whose trigger mode can be chosen: not 8, 13.
    pub(super) const ELCR_SLAVE: u8 = 0xde;
}

/// What a chip expects at its data port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Expect {
    #[default]
    Ocw1,
    Icw2,
    Icw3,
    Icw4,
}

#[derive(Debug, Default)]
struct Chip {
    // Configuration: what the guest programmed.
    /// Inputs that are level-triggered.
    level_triggered: u8,
    vector_base: u8,
    mask: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_nested: bool,
    read_in_service: bool,

    // Volatile state.
    /// Levels of the inputs.
    inputs: u8,
    /// Edges not yet acknowledged.
    edges: u8,
    in_service: u8,
    /// The input with the highest priority.
    first: u8,
    expect: Expect,
    needs_icw4: bool,
    single: bool,
    poll: bool,
}

impl Chip {
    fn set_input(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        if level {
            if self.inputs & bit == 0 {
                self.edges |= bit;
            }
            self.inputs |= bit;
        } else {
            self.inputs &= !bit;
        }
    }

    fn requests(&self) -> u8 {
        (self.edges & !self.level_triggered) | (self.inputs & self.level_triggered)
    }

    /// The input of highest priority among `set` and its rank, zero being the most urgent.
    fn most_urgent(&self, set: u8) -> Option<(u8, u32)> {
        let ranked = set.rotate_right(u32::from(self.first));
        (set != 0).then(|| {
            let rank = ranked.trailing_zeros();
            ((self.first.wrapping_add(rank as u8)) & 7, rank)
        })
    }

    /// The input to be served now. `nested` inputs do not block themselves.
    fn pending(&self, nested: u8) -> Option<u8> {
        let (input, rank) = self.most_urgent(self.requests() & !self.mask)?;
        let hidden = if self.special_mask { self.mask } else { 0 };
        let nested = if self.special_nested { nested } else { 0 };
        match self.most_urgent(self.in_service & !hidden & !nested) {
            Some((_, served)) if served <= rank => None,
            _ => Some(input),
        }
    }

    /// The INTA cycle for `input`: returns the vector.
    fn acknowledge(&mut self, input: u8) -> u8 {
        let bit = 1 << input;
        self.edges &= !bit;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (input + 1) & 7;
            }
        } else {
            self.in_service |= bit;
        }
        self.vector_base | input
    }

    fn write_command(&mut self, value: u8) {
        if value & spec::ICW1 != 0 {
            *self = Self {
                level_triggered: self.level_triggered,
                vector_base: self.vector_base,
                inputs: self.inputs,
                expect: Expect::Icw2,
                needs_icw4: value & spec::ICW1_NEEDS_ICW4 != 0,
                single: value & spec::ICW1_SINGLE != 0,
                ..Self::default()
            };
        } else if value & spec::OCW3 != 0 {
            if value & spec::OCW3_POLL != 0 {
                self.poll = true;
            } else if value & spec::OCW3_READ != 0 {
                self.read_in_service = value & 1 != 0;
            }
            if value & spec::OCW3_SET_SPECIAL_MASK != 0 {
                self.special_mask = value & 1 << 5 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    /// OCW2: end of interrupt and rotation.
    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        let (rotate, specific, end) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        match (end, specific) {
            (true, true) => {
                self.in_service &= !(1 << level);
                if rotate {
                    self.first = (level + 1) & 7;
                }
            }
            (true, false) => {
                let hidden = if self.special_mask { self.mask } else { 0 };
                if let Some((input, _)) = self.most_urgent(self.in_service & !hidden) {
                    self.in_service &= !(1 << input);
                    if rotate {
                        self.first = (input + 1) & 7;
                    }
                }
            }
            (false, true) if rotate => self.first = (level + 1) & 7,
            (false, true) => {}
            (false, false) => self.rotate_on_auto_eoi = rotate,
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.expect {
            Expect::Ocw1 => self.mask = value,
            Expect::Icw2 => {
                self.vector_base = value & 0xf8;
                self.expect = match (self.single, self.needs_icw4) {
                    (false, _) => Expect::Icw3,
                    (true, true) => Expect::Icw4,
                    (true, false) => Expect::Ocw1,
                };
            }
            Expect::Icw3 => {
                self.expect = if self.needs_icw4 { Expect::Icw4 } else { Expect::Ocw1 };
            }
            Expect::Icw4 => {
                self.auto_eoi = value & spec::ICW4_AUTO_EOI != 0;
                self.special_nested = value & spec::ICW4_SPECIAL_NESTED != 0;
                self.expect = Expect::Ocw1;
            }
        }
    }

    fn read_command(&self) -> u8 {
        if self.read_in_service { self.in_service } else { self.requests() }
    }
}

/// Both chips.
#[derive(Debug)]
pub struct PicPair {
    // Dependencies.
    output: Wire,

    // Volatile state.
    master: Chip,
    slave: Chip,
}

/// A chip of the pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Master,
    Slave,
}

impl PicPair {
    /// Offset of the first chip's two ports.
    pub const MASTER: u16 = 0;
    /// Offset of the second chip's two ports.
    pub const SLAVE: u16 = 0x10;
    /// Offset of the two edge/level control registers.
    pub const ELCR: u16 = 0x20;

    /// A pair whose interrupt output is `output`. `level_triggered` has a bit for each of the 16
    /// inputs that firmware made level-triggered; bits of inputs that cannot be are ignored. All
    /// inputs are masked until the chips are programmed.
    pub fn new(output: Wire, level_triggered: u16) -> Self {
        let [low, high] = level_triggered.to_le_bytes();
        let chip = |level_triggered| Chip { level_triggered, mask: 0xff, ..Chip::default() };
        let master = chip(low & spec::ELCR_MASTER);
        let slave = chip(high & spec::ELCR_SLAVE);
        Self { output, master, slave }
    }

    /// The INTA cycle: takes the most urgent interrupt and returns its vector; `None` if none is
    /// pending any more.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let input = self.pending(Which::Master)?;
        let vector = self.serve(Which::Master, input);
        self.propagate();
        Some(vector)
    }

    fn chip(&mut self, which: Which) -> &mut Chip {
        match which {
            Which::Master => &mut self.master,
            Which::Slave => &mut self.slave,
        }
    }

    fn pending(&self, which: Which) -> Option<u8> {
        match which {
            Which::Master => self.master.pending(1 << spec::CASCADE),
            Which::Slave => self.slave.pending(0),
        }
    }

    fn serve(&mut self, which: Which, input: u8) -> u8 {
        let vector = self.chip(which).acknowledge(input);
        match (which, input) {
            (Which::Master, spec::CASCADE) => match self.pending(Which::Slave) {
                Some(input) => self.slave.acknowledge(input),
                // The request went away between the two INTA pulses: a spurious IRQ 15.
                None => self.slave.vector_base | 7,
            },
            _ => vector,
        }
    }

    /// Carries the second chip's output to the first and the first one's to the wire.
    fn propagate(&mut self) {
        let cascade = self.slave.pending(0).is_some();
        self.master.set_input(spec::CASCADE, cascade);
        // The output falls and rises anew for each interrupt of the second chip: a request that
        // stands behind it is an edge of its own.
        let bit = 1 << spec::CASCADE;
        self.master.edges = (self.master.edges & !bit) | (self.master.inputs & bit);
        self.output.set_level(self.pending(Which::Master).is_some());
    }

    fn read_port(&mut self, offset: u16) -> Result<u8, AccessError> {
        let which = match offset & !1 {
            Self::MASTER => Which::Master,
            Self::SLAVE => Which::Slave,
            _ if offset == Self::ELCR => return Ok(self.master.level_triggered),
            _ if offset == Self::ELCR + 1 => return Ok(self.slave.level_triggered),
            _ => return Err(AccessError::NoRegister),
        };
        if std::mem::take(&mut self.chip(which).poll) {
            let Some(input) = self.pending(which) else { return Ok(0) };
            self.chip(which).acknowledge(input);
            return Ok(0x80 | input);
        }
        let chip = self.chip(which);
        Ok(if offset & 1 == 0 { chip.read_command() } else { chip.mask })
    }

    fn write_port(&mut self, offset: u16, value: u8) -> Result<(), AccessError> {
        match offset {
            Self::MASTER => self.master.write_command(value),
            0x01 => self.master.write_data(value),
            Self::SLAVE => self.slave.write_command(value),
            0x11 => self.slave.write_data(value),
            Self::ELCR => self.master.level_triggered = value & spec::ELCR_MASTER,
            0x21 => self.slave.level_triggered = value & spec::ELCR_SLAVE,
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

impl Inputs for PicPair {
    /// Lines 0–15 are the ISA interrupts; line 2 is the cascade and not connected.
    fn set_input(&mut self, line: u32, level: bool) {
        match line {
            0 | 1 | 3..=7 => self.master.set_input(line as u8, level),
            8..=15 => self.slave.set_input(line as u8 & 7, level),
            _ => return,
        }
        self.propagate();
    }
}

impl PortDevice for PicPair {
    fn read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let result = read_bytes(offset, data, |offset| self.read_port(offset));
        self.propagate();
        result
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let result = write_bytes(offset, data, |offset, value| self.write_port(offset, value));
        self.propagate();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(pic: &mut PicPair, offset: u16) -> u8 {
        let mut data = [0];
        pic.read(offset, &mut data).unwrap();
        data[0]
    }

    fn out(pic: &mut PicPair, offset: u16, value: u8) {
        pic.write(offset, &[value]).unwrap();
    }

    fn command(pic: &mut PicPair, which: u16, icw4: u8) {
        let base = if which == PicPair::MASTER { 0x30 } else { 0x38 };
        for (port, value) in [(0, 0x11), (1, base), (1, 4), (1, icw4), (1, 0)] {
            out(pic, which + port, value);
        }
    }

    fn pic(icw4: u8) -> PicPair {
        let mut pic = PicPair::new(Wire::unconnected("intr"), 0);
        command(&mut pic, PicPair::MASTER, icw4);
        command(&mut pic, PicPair::SLAVE, icw4);
        pic
    }

    fn pulse(pic: &mut PicPair, line: u32) {
        pic.set_input(line, true);
        pic.set_input(line, false);
    }

    #[test]
    fn interrupts_nest_by_priority() {
        let mut pic = pic(1);
        pulse(&mut pic, 4);
        assert!(pic.output.level());
        assert_eq!(pic.acknowledge(), Some(0x34));
        assert!(!pic.output.level());
        pulse(&mut pic, 6);
        assert!(!pic.output.level());
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), Some(0x30));
        out(&mut pic, 0, 0x20);
        assert!(!pic.output.level());
        out(&mut pic, 0, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x36));
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn the_slave_is_reached_through_input_2() {
        let mut pic = pic(1);
        pulse(&mut pic, 12);
        pulse(&mut pic, 8);
        assert_eq!(pic.acknowledge(), Some(0x38));
        out(&mut pic, 0, 0x0b);
        assert_eq!(byte(&mut pic, 0), 4);
        out(&mut pic, 0x10, 0x0b);
        assert_eq!(byte(&mut pic, 0x10), 1);
        assert_eq!(pic.acknowledge(), None);
        out(&mut pic, 0x10, 0x20);
        assert_eq!(pic.acknowledge(), None);
        out(&mut pic, 0, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x3c));
    }

    #[test]
    fn masked_requests_wait() {
        let mut pic = pic(1);
        out(&mut pic, 1, 0x10);
        pulse(&mut pic, 4);
        assert!(!pic.output.level());
        assert_eq!((byte(&mut pic, 0), byte(&mut pic, 1)), (0x10, 0x10));
        out(&mut pic, 1, 0);
        assert_eq!(pic.acknowledge(), Some(0x34));
    }

    #[test]
    fn level_inputs_ask_until_they_fall() {
        let mut pic = pic(1);
        out(&mut pic, PicPair::ELCR, 0xff);
        out(&mut pic, PicPair::ELCR + 1, 0xff);
        assert_eq!(byte(&mut pic, PicPair::ELCR), 0xf8);
        assert_eq!(byte(&mut pic, PicPair::ELCR + 1), 0xde);
        pic.set_input(5, true);
        assert_eq!(pic.acknowledge(), Some(0x35));
        out(&mut pic, 0, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x35));
        pic.set_input(5, false);
        out(&mut pic, 0, 0x65);
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn auto_eoi_leaves_nothing_in_service() {
        let mut pic = pic(3);
        pulse(&mut pic, 9);
        pulse(&mut pic, 10);
        assert_eq!(pic.acknowledge(), Some(0x39));
        assert!(pic.output.level());
        assert_eq!(pic.acknowledge(), Some(0x3a));
        assert!(!pic.output.level());
    }

    #[test]
    fn rotation_moves_the_lowest_priority() {
        let mut pic = pic(1);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), Some(0x30));
        out(&mut pic, 0, 0xa0);
        pulse(&mut pic, 0);
        pulse(&mut pic, 7);
        assert_eq!(pic.acknowledge(), Some(0x37));
        out(&mut pic, 0, 0x67);
        out(&mut pic, 0, 0xc7);
        assert_eq!(pic.acknowledge(), Some(0x30));
    }

    #[test]
    fn special_mask_mode_lets_lower_priorities_through() {
        let mut pic = pic(1);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x33));
        pulse(&mut pic, 6);
        assert_eq!(pic.acknowledge(), None);
        out(&mut pic, 1, 0x08);
        out(&mut pic, 0, 0x68);
        assert_eq!(pic.acknowledge(), Some(0x36));
    }

    #[test]
    fn polling_acknowledges() {
        let mut pic = pic(1);
        out(&mut pic, 0, 0x0c);
        assert_eq!(byte(&mut pic, 0), 0);
        pulse(&mut pic, 1);
        out(&mut pic, 0, 0x0c);
        assert_eq!(byte(&mut pic, 0), 0x81);
        assert!(!pic.output.level());
    }

    #[test]
    fn a_level_request_that_goes_away_is_no_interrupt() {
        let mut pic = pic(1);
        out(&mut pic, PicPair::ELCR + 1, 0x04);
        pic.set_input(10, true);
        assert!(pic.output.level());
        pic.set_input(10, false);
        assert!(!pic.output.level());
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn any_sequence_of_accesses_is_survived() {
        let mut pic = pic(1);
        let mut random = crate::testing::Random::new(2);
        for _ in 0..200_000 {
            let offset = [0, 1, 0x10, 0x11, 0x20, 0x21, 0x22][random.below(7)];
            random.access(&mut pic, offset);
            pic.set_input(random.below(17) as u32, random.below(2) == 0);
            if random.below(3) == 0 {
                let asked = pic.output.level();
                assert_eq!(pic.acknowledge().is_some(), asked);
            }
        }
    }
}
