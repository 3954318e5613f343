//! The transceiver (an 88E1011) and the registers through which it is reached. The link is always
//! up, at 1000 Mbit/s in full duplex.

/// Registers (IEEE 802.3, clause 22, and the transceiver's own).
mod register {
    pub(super) const CONTROL: usize = 0;
    pub(super) const STATUS: usize = 1;
    pub(super) const ID_1: usize = 2;
    pub(super) const ID_2: usize = 3;
    pub(super) const ADVERTISEMENT: usize = 4;
    pub(super) const PARTNER: usize = 5;
    pub(super) const EXPANSION: usize = 6;
    pub(super) const GIGABIT_CONTROL: usize = 9;
    pub(super) const GIGABIT_STATUS: usize = 10;
    pub(super) const EXTENDED_STATUS: usize = 15;
    pub(super) const SPECIFIC_CONTROL: usize = 16;
    pub(super) const SPECIFIC_STATUS: usize = 17;
}

/// Control: reset, restart negotiation; both clear themselves.
const RESET: u16 = 1 << 15;
const RESTART: u16 = 1 << 9;
/// Registers that cannot be written.
const READ_ONLY: [usize; 8] = [
    register::STATUS,
    register::ID_1,
    register::ID_2,
    register::PARTNER,
    register::EXPANSION,
    register::GIGABIT_STATUS,
    register::EXTENDED_STATUS,
    register::SPECIFIC_STATUS,
];

/// MDIC.
mod mdic {
    pub(super) const WRITE: u32 = 1;
    pub(super) const READ: u32 = 2;
    pub(super) const READY: u32 = 1 << 28;
    pub(super) const INTERRUPT: u32 = 1 << 29;
    pub(super) const ERROR: u32 = 1 << 30;
    /// The transceiver's number.
    pub(super) const PHY: u32 = 1;
}

/// What a management cycle brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Effect {
    /// The link was negotiated anew.
    pub(super) link: bool,
    /// An interrupt was asked for when it is complete.
    pub(super) complete: bool,
}

/// The transceiver.
#[derive(Debug)]
pub(super) struct Phy {
    registers: [u16; 32],
    mdic: u32,
}

impl Phy {
    pub(super) fn new() -> Self {
        let mut registers = [0; 32];
        for (register, value) in [
            (register::CONTROL, 0x1140),
            // Every speed, negotiation complete, link up.
            (register::STATUS, 0x796d),
            (register::ID_1, 0x0141),
            (register::ID_2, 0x0c20),
            (register::ADVERTISEMENT, 0x01e1),
            (register::PARTNER, 0xc1e1),
            (register::EXPANSION, 0x000f),
            (register::GIGABIT_CONTROL, 0x0e00),
            (register::GIGABIT_STATUS, 0x3c00),
            (register::EXTENDED_STATUS, 0x3000),
            (register::SPECIFIC_CONTROL, 0x0360),
            // 1000 Mbit/s, full duplex, resolved, link up.
            (register::SPECIFIC_STATUS, 0xac00),
        ] {
            registers[register] = value;
        }
        Self { registers, mdic: mdic::READY }
    }

    /// MDIC.
    pub(super) fn cycle(&self) -> u32 {
        self.mdic
    }

    /// Writes MDIC: a cycle, which is complete at once.
    pub(super) fn set_cycle(&mut self, value: u32) -> Effect {
        let register = (value >> 16 & 0x1f) as usize;
        let (phy, operation) = (value >> 21 & 0x1f, value >> 26 & 3);
        let mut effect = Effect { link: false, complete: value & mdic::INTERRUPT != 0 };
        self.mdic = value & !mdic::ERROR | mdic::READY;
        match operation {
            mdic::READ if phy == mdic::PHY => {
                self.mdic = self.mdic & !0xffff | u32::from(self.registers[register]);
            }
            mdic::WRITE if phy == mdic::PHY => effect.link = self.write(register, value as u16),
            _ => self.mdic |= mdic::ERROR,
        }
        effect
    }

    /// Writes a register; returns whether the link is negotiated anew.
    fn write(&mut self, register: usize, value: u16) -> bool {
        if READ_ONLY.contains(&register) {
            return false;
        }
        if register != register::CONTROL {
            self.registers[register] = value;
            return false;
        }
        if value & RESET != 0 {
            *self = Self { mdic: self.mdic, ..Self::new() };
        } else {
            self.registers[register] = value & !RESTART;
        }
        value & (RESET | RESTART) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(phy: &mut Phy, register: u32) -> u32 {
        phy.set_cycle(mdic::READ << 26 | 1 << 21 | register << 16);
        phy.cycle()
    }

    #[test]
    fn cycles_reach_one_transceiver() {
        let mut phy = Phy::new();
        assert_eq!(read(&mut phy, 2) & 0x5000_ffff, mdic::READY | 0x0141);
        let effect = phy.set_cycle(mdic::WRITE << 26 | 1 << 21 | 0x1340 | mdic::INTERRUPT);
        assert_eq!(effect, Effect { link: true, complete: true });
        assert_eq!(read(&mut phy, 0) & 0xffff, 0x1140);
        phy.set_cycle(mdic::WRITE << 26 | 1 << 21 | 2 << 16 | 7);
        assert_eq!(read(&mut phy, 2) & 0xffff, 0x0141);
        phy.set_cycle(mdic::READ << 26 | 9 << 21);
        assert_ne!(phy.cycle() & mdic::ERROR, 0);
    }
}
