//! Who drives ISA interrupts 0 and 8: the 8254 and the real-time clock, or the HPET in their place.

use ambos_wire::{Inputs, Wire};

/// An output and the two that want to drive it.
#[derive(Debug)]
struct Switch {
    output: Wire,
    /// Levels of the old chip and of the HPET.
    inputs: [bool; 2],
}

/// The switch of legacy replacement routing.
#[derive(Debug)]
pub struct LegacySwitch {
    replaced: bool,
    switches: [Switch; 2],
}

impl LegacySwitch {
    /// Input of the 8254's channel 0.
    pub const PIT: u32 = 0;
    /// Input of the real-time clock.
    pub const RTC: u32 = 1;
    /// Input of the HPET's timer 0; timer 1 is next to it.
    pub const HPET: u32 = 2;

    /// A switch that drives `irq_0` and `irq_8`, at first from the 8254 and the real-time clock.
    pub fn new(irq_0: Wire, irq_8: Wire) -> Self {
        let switches = [irq_0, irq_8].map(|output| Switch { output, inputs: [false; 2] });
        Self { replaced: false, switches }
    }

    /// Lets the HPET drive the outputs, or the old chips again.
    pub fn select(&mut self, hpet: bool) {
        if std::mem::replace(&mut self.replaced, hpet) != hpet {
            for switch in &self.switches {
                switch.output.set_level(switch.inputs[usize::from(hpet)]);
            }
        }
    }
}

impl Inputs for LegacySwitch {
    fn set_input(&mut self, line: u32, level: bool) {
        let (source, index) = (line >> 1, line & 1);
        if source > 1 {
            return;
        }
        let switch = &mut self.switches[index as usize];
        switch.inputs[source as usize] = level;
        if source == u32::from(self.replaced) {
            switch.output.set_level(level);
        }
    }
}
