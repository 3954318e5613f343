//! What our monitor counted while a guest worked.

use serde::Deserialize;
use std::path::Path;

/// What `ambos run --stats FILE` writes, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Statistics {
    windows: Vec<Window>,
}

/// What happened between two marks of the guest.
#[derive(Debug, Deserialize)]
struct Window {
    name: String,
    intercepts: Vec<Line>,
}

#[derive(Debug, Deserialize)]
struct Line {
    class: String,
    label: String,
    count: u64,
}

impl Line {
    /// Whether it is a driver's way to a device, or a device's to its driver. Others belong to the guest's own
    /// work, such as masking interrupts, which most of the time the translated code serves itself.
    fn is_of_devices(&self) -> bool {
        let classes = ["port", "mmio", "interrupt"];
        // Interrupt controllers are reached by MSRs as well, back ends of a Xen guest by event channels.
        let labels = ["MSR write", "event_channel_op", "grant_table_op"];
        classes.contains(&self.class.as_str()) || labels.contains(&self.label.as_str())
    }
}

/// How many interceptions there were.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Counts {
    /// All of them.
    pub(super) all: f64,
    /// Those between drivers and devices.
    pub(super) of_devices: f64,
}

impl Counts {
    fn of(window: &Window) -> Self {
        let sum = |lines: &mut dyn Iterator<Item = &Line>| {
            lines.map(|line| line.count as f64).sum::<f64>()
        };
        let all = sum(&mut window.intercepts.iter());
        let of_devices = sum(&mut window.intercepts.iter().filter(|line| line.is_of_devices()));
        Self { all, of_devices }
    }

    /// What is left for each of `requests` without `beside`.
    pub(super) fn each(self, beside: Self, requests: f64) -> Self {
        let each = |count: f64, beside: f64| (count - beside).max(0.0) / requests;
        Self {
            all: each(self.all, beside.all),
            of_devices: each(self.of_devices, beside.of_devices),
        }
    }
}

/// Interceptions in the window of a name that had the fewest; nothing if nothing was counted.
pub(super) fn fewest(path: &Path, name: &str) -> Option<Counts> {
    let bytes = std::fs::read(path).ok()?;
    let statistics = serde_json::from_slice::<Statistics>(&bytes).ok()?;
    let of_name = statistics.windows.iter().filter(|window| window.name == name);
    of_name.map(Counts::of).min_by(|one, other| one.all.total_cmp(&other.all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_their_own_count() {
        let line = |class: &str, label: &str, count| Line {
            class: class.to_owned(),
            label: label.to_owned(),
            count,
        };
        let intercepts = vec![
            line("port", "IDE controller", 20),
            line("privileged", "MSR write", 3),
            line("privileged", "SYSCALL/SYSENTER", 100),
            line("hypercall", "event_channel_op", 1),
            line("hypercall", "iret", 10),
        ];
        let counts = Counts::of(&Window { name: String::new(), intercepts });
        assert_eq!(counts, Counts { all: 134.0, of_devices: 24.0 });
        let beside = Counts { all: 34.0, of_devices: 30.0 };
        assert_eq!(counts.each(beside, 10.0), Counts { all: 10.0, of_devices: 0.0 });
    }
}
