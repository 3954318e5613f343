//! Lines of text.

use crate::sys;

/// Prints the parts as one line, with one write.
pub(crate) fn line(parts: &[&str]) {
    let mut buffer = Buffer::default();
    for part in parts {
        buffer.add(part);
    }
    buffer.add("\n");
    buffer.write();
}

/// Text that is written at once.
pub(crate) struct Buffer {
    bytes: [u8; 512],
    length: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: [0; 512], length: 0 }
    }
}

impl Buffer {
    /// Appends as much as there is room for.
    pub(crate) fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
    }

    /// Writes the text to standard output.
    pub(crate) fn write(&self) {
        let (mut address, mut left) = (self.bytes.as_ptr() as usize, self.length);
        while left > 0 {
            match sys::call3(sys::WRITE, 1, address, left) {
                Ok(written) if written > 0 => {
                    address += written;
                    left -= written.min(left);
                }
                _ => return,
            }
        }
    }
}

/// A number as text.
#[derive(Default)]
pub(crate) struct Digits {
    bytes: [u8; 20],
}

impl Digits {
    /// The decimal digits of `value`.
    pub(crate) fn of(&mut self, mut value: u64) -> &str {
        let mut start = self.bytes.len();
        loop {
            start -= 1;
            self.bytes[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        core::str::from_utf8(&self.bytes[start..]).unwrap_or("")
    }
}
