//! How an instruction ends other than by going on to the next one.

use ambos_vcpu::Stop;
use ambos_x86::Vector;

/// An exception to deliver at the current instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Vector.
    pub vector: Vector,
    /// Error code, where the vector has one.
    pub error: u32,
}

impl Fault {
    /// #UD.
    pub const UD: Self = Self { vector: Vector::InvalidOpcode, error: 0 };
    /// #NM.
    pub const NM: Self = Self { vector: Vector::DeviceNotAvailable, error: 0 };
    /// #DE.
    pub const DE: Self = Self { vector: Vector::DivideError, error: 0 };
    /// #GP(0).
    pub const GP0: Self = Self { vector: Vector::GeneralProtection, error: 0 };
    /// #SS(0).
    pub const SS0: Self = Self { vector: Vector::StackFault, error: 0 };

    /// #GP with a selector.
    pub const fn gp(selector: u16) -> Self {
        Self { vector: Vector::GeneralProtection, error: selector as u32 & 0xfffc }
    }

    /// #NP with a selector.
    pub const fn np(selector: u16) -> Self {
        Self { vector: Vector::SegmentNotPresent, error: selector as u32 & 0xfffc }
    }

    /// #SS with a selector.
    pub const fn ss(selector: u16) -> Self {
        Self { vector: Vector::StackFault, error: selector as u32 & 0xfffc }
    }

    /// #TS with a selector.
    pub const fn ts(selector: u16) -> Self {
        Self { vector: Vector::InvalidTss, error: selector as u32 & 0xfffc }
    }
}

/// Why the rest of a block does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The instruction is complete and has set the instruction pointer.
    Jump,
    /// The instruction is complete; go on after it, but look up the code anew.
    Next,
    /// The instruction is a string instruction with iterations left: run it again.
    Again,
    /// The instruction is complete and has set the instruction pointer, and the vCPU stops.
    JumpStop(Box<Stop>),
    /// The instruction faulted and changed nothing.
    Fault(Fault),
    /// The instruction is complete and the vCPU stops.
    Stop(Box<Stop>),
}

impl From<Fault> for Exit {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What an instruction's handler returns: `Ok` goes on with the next one.
pub type Step = Result<(), Exit>;
