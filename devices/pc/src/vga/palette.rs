//! The colours: 256 entries of a digital-to-analogue converter.

/// The converter's registers and entries.
#[derive(Debug, Clone)]
pub(super) struct Palette {
    entries: Box<[[u8; 3]; 256]>,
    mask: u8,
    read_index: u8,
    write_index: u8,
    /// Which component comes next.
    component: usize,
    /// The entry that is being written.
    entry: [u8; 3],
    /// Reading was announced last, not writing.
    reading: bool,
    /// Components have eight bits, not six.
    wide: bool,
}

impl Palette {
    /// The 64 colours of an EGA; the rest is dark.
    pub(super) fn new() -> Self {
        let mut entries = Box::new([[0; 3]; 256]);
        for (index, entry) in (0..64u8).zip(entries.iter_mut()) {
            let component =
                |bright: u8, dim: u8| (index >> bright & 1) * 0x2a + (index >> dim & 1) * 0x15;
            *entry = [component(2, 5), component(1, 4), component(0, 3)];
        }
        Self {
            entries,
            mask: 0xff,
            read_index: 0,
            write_index: 0,
            component: 0,
            entry: [0; 3],
            reading: false,
            wide: false,
        }
    }

    /// Chooses how many bits components have: eight or six.
    pub(super) fn set_wide(&mut self, wide: bool) {
        self.wide = wide;
    }

    /// What an entry looks like, with eight bits for each component.
    pub(super) fn colour(&self, index: u8) -> [u8; 3] {
        let entry = self.entries[usize::from(index & self.mask)];
        if self.wide { entry } else { entry.map(|value| value << 2 | value >> 4) }
    }

    /// Reads one of the ports 3C6h to 3C9h.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        match port {
            0x3c6 => self.mask,
            0x3c7 => {
                if self.reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.write_index,
            _ => {
                let value = self.entries[usize::from(self.read_index)][self.component % 3];
                self.component += 1;
                if self.component >= 3 {
                    self.component = 0;
                    self.read_index = self.read_index.wrapping_add(1);
                }
                value
            }
        }
    }

    /// Writes one of the ports 3C6h to 3C9h.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x3c6 => self.mask = value,
            0x3c7 => (self.read_index, self.component, self.reading) = (value, 0, true),
            0x3c8 => (self.write_index, self.component, self.reading) = (value, 0, false),
            _ => {
                self.entry[self.component % 3] = if self.wide { value } else { value & 0x3f };
                self.component += 1;
                if self.component >= 3 {
                    self.component = 0;
                    self.entries[usize::from(self.write_index)] = self.entry;
                    self.write_index = self.write_index.wrapping_add(1);
                }
            }
        }
    }
}
