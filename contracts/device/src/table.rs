//! The rows of accounting and their labels.

use ambos_intercept::Device;

/// The devices of a machine as accounting knows them.
#[derive(Debug, Clone)]
pub struct DeviceTable {
    labels: Vec<String>,
}

impl Default for DeviceTable {
    fn default() -> Self {
        Self { labels: vec!["unclaimed".to_owned()] }
    }
}

impl DeviceTable {
    /// The row of the device named `label`, made if there is none. Past [`Device::MAX`] rows,
    /// devices share the last one.
    pub fn add(&mut self, label: impl Into<String>) -> Device {
        let label = label.into();
        let row = self.labels.iter().position(|known| *known == label);
        let row = row.unwrap_or_else(|| {
            if self.labels.len() < Device::MAX {
                self.labels.push(label);
            }
            self.labels.len() - 1
        });
        Device::new(row)
    }

    /// The label of a row.
    pub fn label(&self, device: Device) -> &str {
        self.labels.get(device.row()).map_or("unknown", String::as_str)
    }

    /// All labels in the order of their rows; row zero is accesses that nobody claimed.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_bounded_and_named() {
        let mut table = DeviceTable::default();
        assert_eq!(table.label(Device::NONE), "unclaimed");
        let first = table.add("8259");
        assert_eq!(table.add("8259"), first);
        for index in 0..1000 {
            table.add(format!("device {index}"));
        }
        assert_eq!(table.labels().len(), Device::MAX);
        assert_eq!(table.label(first), "8259");
    }
}
