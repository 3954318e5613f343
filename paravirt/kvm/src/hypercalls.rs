//! Hypercalls: number in RAX, arguments in RBX, RCX, RDX and RSI, result in RAX.

use crate::spec::{error, hypercall};

/// Delivery modes that an interrupt between processors may have: fixed and NMI.
const MODES: [u64; 2] = [0, 4];
/// The vector and the delivery mode in an interrupt command.
const COMMAND: u64 = 0x7ff;
/// The delivery mode in an interrupt command.
const MODE_SHIFT: u32 = 8;
/// Bits of a map of processors in a 64-bit guest, and in others.
const WIDTH: [u32; 2] = [64, 32];

/// What a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypercall {
    /// Interrupts to other processors.
    Send(Interrupts),
    /// Let another vCPU, by its APIC ID, run instead.
    Yield(u64),
    /// Nothing that can be served: this is the result.
    Refused(u64),
}

/// Interrupts for several processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupts {
    /// Vector, and delivery mode from bit 8 on, as in an interrupt command.
    pub command: u32,
    /// APIC ID that the first bit of the map stands for.
    first: u64,
    map: u128,
}

impl Interrupts {
    /// The APIC IDs of the processors.
    pub fn targets(self) -> impl Iterator<Item = u64> {
        let bits = (0..u128::BITS).filter(move |bit| self.map >> bit & 1 != 0);
        bits.filter_map(move |bit| self.first.checked_add(u64::from(bit)))
    }
}

impl Hypercall {
    /// What the registers say. `long` tells 64-bit guests, whose registers count whole; only the
    /// guest's kernel, the `supervisor`, may ask for anything.
    pub fn new(number: u64, arguments: [u64; 4], long: bool, supervisor: bool) -> Self {
        if !supervisor {
            return Self::Refused(error::NOT_PERMITTED);
        }
        let mask = if long { u64::MAX } else { u64::from(u32::MAX) };
        let [a, b, c, d] = arguments.map(|argument| argument & mask);
        match number & mask {
            hypercall::SEND_IPI if d & !COMMAND == 0 && MODES.contains(&(d >> MODE_SHIFT)) => {
                let width = if long { WIDTH[0] } else { WIDTH[1] };
                let map = u128::from(a) | u128::from(b) << width;
                Self::Send(Interrupts { command: d as u32, first: c, map })
            }
            hypercall::SEND_IPI => Self::Refused(error::INVALID),
            hypercall::SCHED_YIELD => Self::Yield(a),
            _ => Self::Refused(error::NO_CALL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_processors_are_read() {
        let send = |long| match Hypercall::new(10, [0b101, 1, 3, 0x41], long, true) {
            Hypercall::Send(interrupts) => {
                assert_eq!(interrupts.command, 0x41);
                interrupts.targets().collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(send(true), [3, 5, 67]);
        assert_eq!(send(false), [3, 5, 35]);
        let wrap = Hypercall::new(10, [u64::MAX, 0, u64::MAX - 1, 0x441], true, true);
        let Hypercall::Send(interrupts) = wrap else { panic!("{wrap:?}") };
        assert_eq!(interrupts.targets().count(), 2);
    }

    #[test]
    fn what_is_not_served_is_refused() {
        let refused = |number, command, supervisor| {
            Hypercall::new(number, [1, 0, 0, command], true, supervisor)
        };
        assert_eq!(refused(11, 0, false), Hypercall::Refused(-1i64 as u64));
        assert_eq!(refused(5, 0, true), Hypercall::Refused(-1000i64 as u64));
        assert_eq!(refused(10, 0x500, true), Hypercall::Refused(-22i64 as u64));
        assert_eq!(refused(10, 1 << 20, true), Hypercall::Refused(-22i64 as u64));
    }
}
