//! Interrupt lines as named wires.
//!
//! A device holds [`Wire`]s that carry the names of its output pins and knows no line numbers. A
//! controller hands out [`InputPin`]s; only it knows what their numbers mean. Several wires may
//! end in one pin: the pin is high while any of them is (a wired OR). A wire that ends nowhere is
//! legal.
//!
//! [`MsiTarget`] is the other way to interrupt: a write to an address.
//!
//! # Locks
//!
//! A pin's lock is held while its controller is told of a change, so that the controller sees
//! changes in the order in which they happened. The order is: device, pin, controller. A
//! controller that calls back into a device must not hold its own lock meanwhile.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What has numbered input lines: an interrupt controller.
pub trait WireTarget: Send + Sync {
    /// Input `line` is now at `level`. Called once for each change, in order.
    fn set_level(&self, line: u32, level: bool);
}

/// A controller whose inputs are served under its own lock: `Mutex<impl Inputs>` is a
/// [`WireTarget`].
pub trait Inputs: Send {
    /// As [`WireTarget::set_level`].
    fn set_input(&mut self, line: u32, level: bool);
}

impl<T: Inputs + ?Sized> WireTarget for Mutex<T> {
    fn set_level(&self, line: u32, level: bool) {
        self.lock().unwrap_or_else(PoisonError::into_inner).set_input(line, level);
    }
}

/// Where message-signalled interrupts go.
pub trait MsiTarget: Send + Sync {
    /// Serves a write of `data` to `address`. Messages to nobody are dropped.
    fn signal(&self, address: u64, data: u32);
}

struct Pin {
    target: Arc<dyn WireTarget>,
    line: u32,
    /// How many wires hold the pin high.
    high: Mutex<usize>,
}

impl Pin {
    /// One of the wires, whose own level is `wire`, goes to `level`.
    fn change(&self, wire: &AtomicBool, level: bool) {
        let mut high = self.high.lock().unwrap_or_else(PoisonError::into_inner);
        if wire.swap(level, Ordering::AcqRel) == level {
            return;
        }
        let before = *high;
        *high = if level { before.saturating_add(1) } else { before.saturating_sub(1) };
        if (before == 0) != (*high == 0) {
            self.target.set_level(self.line, level);
        }
    }
}

/// An input of a controller. Clones are the same pin.
#[derive(Clone)]
pub struct InputPin(Arc<Pin>);

impl fmt::Debug for InputPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InputPin").field(&self.0.line).finish()
    }
}

impl InputPin {
    /// Input `line` of `target`, low until a wire raises it. For each line of a controller there
    /// must be only one pin, cloned where it is shared.
    pub fn new(target: Arc<dyn WireTarget>, line: u32) -> Self {
        Self(Arc::new(Pin { target, line, high: Mutex::new(0) }))
    }

    /// A wire named `label` that ends in this pin.
    pub fn wire(&self, label: impl Into<String>) -> Wire {
        Wire { label: label.into(), pin: Some(self.clone()), level: AtomicBool::new(false) }
    }
}

/// An output pin of a device. Dropping it lowers it.
pub struct Wire {
    label: String,
    pin: Option<InputPin>,
    level: AtomicBool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("label", &self.label)
            .field("pin", &self.pin)
            .field("level", &self.level())
            .finish()
    }
}

impl Wire {
    /// A wire named `label` that ends nowhere.
    pub fn unconnected(label: impl Into<String>) -> Self {
        Self { label: label.into(), pin: None, level: AtomicBool::new(false) }
    }

    /// The name of the output pin.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The level last set.
    pub fn level(&self) -> bool {
        self.level.load(Ordering::Acquire)
    }

    /// Drives the wire.
    pub fn set_level(&self, level: bool) {
        match &self.pin {
            _ if self.level() == level => {}
            Some(pin) => pin.0.change(&self.level, level),
            None => self.level.store(level, Ordering::Release),
        }
    }

    /// Raises and lowers the wire: one edge. A wire that is high already is only lowered.
    pub fn pulse(&self) {
        self.set_level(true);
        self.set_level(false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.set_level(false);
    }
}

/// Carries one line on to several pins.
#[derive(Debug)]
pub struct Fork {
    branches: Vec<Wire>,
}

impl Fork {
    /// A pin that drives all of `pins`.
    pub fn pin(label: &str, pins: &[InputPin]) -> InputPin {
        let branches = pins.iter().map(|pin| pin.wire(label)).collect();
        InputPin::new(Arc::new(Self { branches }), 0)
    }
}

impl WireTarget for Fork {
    fn set_level(&self, _line: u32, level: bool) {
        for branch in &self.branches {
            branch.set_level(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder(Vec<(u32, bool)>);

    impl Inputs for Recorder {
        fn set_input(&mut self, line: u32, level: bool) {
            self.0.push((line, level));
        }
    }

    #[test]
    fn shared_wires_or_together() {
        let controller = Arc::new(Mutex::new(Recorder::default()));
        let pin = InputPin::new(controller.clone(), 5);
        let (one, two) = (pin.wire("one"), pin.wire("two"));
        one.set_level(true);
        one.set_level(true);
        two.set_level(true);
        one.set_level(false);
        assert_eq!(controller.lock().unwrap().0, [(5, true)]);
        drop(two);
        assert_eq!(controller.lock().unwrap().0, [(5, true), (5, false)]);
    }

    #[test]
    fn a_pulse_is_one_edge() {
        let controller = Arc::new(Mutex::new(Recorder::default()));
        let wire = InputPin::new(controller.clone(), 1).wire("tick");
        wire.pulse();
        assert_eq!(controller.lock().unwrap().0, [(1, true), (1, false)]);
    }

    #[test]
    fn unconnected_wires_go_nowhere() {
        let wire = Wire::unconnected("speaker");
        wire.set_level(true);
        assert!(wire.level());
        assert_eq!(wire.label(), "speaker");
    }

    #[test]
    fn a_fork_drives_every_branch() {
        let controller = Arc::new(Mutex::new(Recorder::default()));
        let target: Arc<dyn WireTarget> = controller.clone();
        let pins = [InputPin::new(Arc::clone(&target), 0), InputPin::new(target, 2)];
        let wire = Fork::pin("timer", &pins).wire("channel 0");
        wire.set_level(true);
        assert_eq!(controller.lock().unwrap().0, [(0, true), (2, true)]);
    }
}
