//! From the four PCI interrupt lines to the interrupt controllers.

use ambos_wire::{InputPin, Inputs, Wire};

/// Number of PCI interrupt lines.
pub const LINES: usize = 4;

/// Route control register: not routed.
const DISABLED: u8 = 1 << 7;
/// 8259 inputs that PCI lines can be routed to.
const ROUTABLE: u16 = 0xdef8;

#[derive(Debug)]
struct Line {
    io_apic: Wire,
    /// A wire to each input of the 8259s; the routed one carries the line.
    pic: Vec<Wire>,
    route: Option<usize>,
}

/// Carries each line to its I/O APIC pin and to the 8259 input that the ISA bridge selects.
#[derive(Debug)]
pub struct LineRouter {
    lines: Vec<Line>,
}

impl LineRouter {
    /// Routes to the pins of the I/O APIC for lines 0–3, and to inputs 0–15 of the 8259s.
    pub fn new(io_apic: &[InputPin; LINES], pic: &[InputPin; 16]) -> Self {
        let lines = io_apic.iter().enumerate().map(|(index, pin)| {
            let label = format!("PCI line {index}");
            let pic = pic.iter().map(|pin| pin.wire(&*label)).collect();
            Line { io_apic: pin.wire(&*label), pic, route: None }
        });
        Self { lines: lines.collect() }
    }

    /// Routes a line as its route control register says.
    pub fn set_route(&mut self, line: usize, register: u8) {
        let irq = usize::from(register & 0xf);
        let routed = register & DISABLED == 0 && ROUTABLE >> irq & 1 != 0;
        let Some(line) = self.lines.get_mut(line) else { return };
        let route = routed.then_some(irq);
        if let Some(wire) = line.route.filter(|_| line.route != route).and_then(|r| line.pic.get(r))
        {
            wire.set_level(false);
        }
        line.route = route;
        line.carry(line.io_apic.level());
    }
}

impl Line {
    fn carry(&self, level: bool) {
        self.io_apic.set_level(level);
        if let Some(wire) = self.route.and_then(|route| self.pic.get(route)) {
            wire.set_level(level);
        }
    }
}

impl Inputs for LineRouter {
    fn set_input(&mut self, line: u32, level: bool) {
        if let Some(line) = self.lines.get(line as usize) {
            line.carry(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    /// The lines that are high.
    #[derive(Default)]
    struct High(BTreeSet<u32>);

    impl Inputs for High {
        fn set_input(&mut self, line: u32, level: bool) {
            if level {
                self.0.insert(line);
            } else {
                self.0.remove(&line);
            }
        }
    }

    #[test]
    fn lines_follow_their_route() {
        let high = Arc::new(Mutex::new(High::default()));
        let pin = |line| InputPin::new(high.clone(), line);
        let pic: [InputPin; 16] = std::array::from_fn(|irq| pin(irq as u32));
        let mut router = LineRouter::new(&[pin(16), pin(17), pin(18), pin(19)], &pic);
        let lines = || high.lock().unwrap().0.iter().copied().collect::<Vec<_>>();
        router.set_route(1, 11);
        router.set_input(1, true);
        assert_eq!(lines(), [11, 17]);
        router.set_route(1, 5);
        assert_eq!(lines(), [5, 17]);
        router.set_route(0, 5);
        router.set_input(0, true);
        router.set_input(1, false);
        assert_eq!(lines(), [5, 16]);
        router.set_route(0, 0x80);
        assert_eq!(lines(), [16]);
        router.set_route(0, 13);
        assert_eq!(lines(), [16]);
        router.set_input(9, true);
    }
}
