//! A ring of bytes, as the console and xenstore have one for each direction.

use crate::shared::{RingError, SharedPages};

/// Which end of a ring is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// We take bytes out.
    Consumer,
    /// We put bytes in.
    Producer,
}

/// Our end of a ring. Our index is kept here as well: the guest cannot move it.
#[derive(Debug)]
pub(crate) struct ByteRing {
    // Configuration: places in the shared page.
    buffer: u32,
    size: u32,
    ours_at: u32,
    theirs_at: u32,
    side: Side,

    // Volatile state.
    ours: u32,
}

impl ByteRing {
    /// A ring of `size` bytes, a power of two, at `buffer`, with its indices at `consumer` and
    /// `producer`.
    pub(crate) fn new(
        pages: &SharedPages,
        (buffer, size): (u32, u32),
        consumer: u32,
        producer: u32,
        side: Side,
    ) -> Result<Self, RingError> {
        let (ours_at, theirs_at) = match side {
            Side::Consumer => (consumer, producer),
            Side::Producer => (producer, consumer),
        };
        let ours = pages.load(ours_at)?;
        Ok(Self { buffer, size, ours_at, theirs_at, side, ours })
    }

    /// Forgets the content, on both sides.
    pub(crate) fn reset(&mut self, pages: &SharedPages) -> Result<(), RingError> {
        self.ours = 0;
        pages.store(self.ours_at, 0)?;
        pages.store(self.theirs_at, 0)
    }

    /// Bytes that can be taken out, or put in.
    pub(crate) fn available(&self, pages: &SharedPages) -> Result<u32, RingError> {
        let theirs = pages.load(self.theirs_at)?;
        let available = match self.side {
            Side::Consumer => Some(theirs.wrapping_sub(self.ours)),
            Side::Producer => self.size.checked_sub(self.ours.wrapping_sub(theirs)),
        };
        available.filter(|bytes| *bytes <= self.size).ok_or(RingError::Indices)
    }

    /// Takes out what is there and fits; returns how many bytes that was.
    pub(crate) fn read(
        &mut self,
        pages: &SharedPages,
        bytes: &mut [u8],
    ) -> Result<usize, RingError> {
        let count = self.available(pages)?.min(clamp(bytes.len()));
        let (head, tail) = bytes[..count as usize].split_at_mut(self.until_end(count) as usize);
        pages.read(self.buffer + self.position(), head)?;
        pages.read(self.buffer, tail)?;
        self.advance(pages, count)
    }

    /// Puts in what there is room for; returns how many bytes that was.
    pub(crate) fn write(&mut self, pages: &SharedPages, bytes: &[u8]) -> Result<usize, RingError> {
        let count = self.available(pages)?.min(clamp(bytes.len()));
        let (head, tail) = bytes[..count as usize].split_at(self.until_end(count) as usize);
        pages.write(self.buffer + self.position(), head)?;
        pages.write(self.buffer, tail)?;
        self.advance(pages, count)
    }

    fn position(&self) -> u32 {
        self.ours & (self.size - 1)
    }

    /// Bytes, of `count`, up to the end of the buffer.
    fn until_end(&self, count: u32) -> u32 {
        count.min(self.size - self.position())
    }

    fn advance(&mut self, pages: &SharedPages, count: u32) -> Result<usize, RingError> {
        if count > 0 {
            self.ours = self.ours.wrapping_add(count);
            pages.store(self.ours_at, self.ours)?;
        }
        Ok(count as usize)
    }
}

fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_memory::GuestRam;
    use std::sync::Arc;

    const CONSUMER: u32 = 64;
    const PRODUCER: u32 = 68;

    fn page() -> SharedPages {
        SharedPages::page(&Arc::new(GuestRam::new(8192).unwrap()), 4096)
    }

    fn ring(pages: &SharedPages, side: Side) -> ByteRing {
        ByteRing::new(pages, (16, 16), CONSUMER, PRODUCER, side).unwrap()
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let pages = page();
        pages.store(CONSUMER, u32::MAX - 3).unwrap();
        pages.store(PRODUCER, u32::MAX - 3).unwrap();
        let (mut producer, mut consumer) =
            (ring(&pages, Side::Producer), ring(&pages, Side::Consumer));
        let mut next = 0u8;
        let mut expected = 0u8;
        for step in 0..200 {
            let bytes: Vec<u8> = (0..step % 23).map(|byte| next.wrapping_add(byte)).collect();
            next = next.wrapping_add(producer.write(&pages, &bytes).unwrap() as u8);
            let mut out = vec![0; usize::from(step % 7)];
            let count = consumer.read(&pages, &mut out).unwrap();
            for byte in &out[..count] {
                assert_eq!(*byte, expected);
                expected = expected.wrapping_add(1);
            }
        }
        assert!(expected > 50);
    }

    #[test]
    fn contradicting_indices_are_seen() {
        let pages = page();
        let (producer, mut consumer) = (ring(&pages, Side::Producer), ring(&pages, Side::Consumer));
        pages.store(PRODUCER, 17).unwrap();
        assert_eq!(consumer.read(&pages, &mut [0; 4]), Err(RingError::Indices));
        pages.store(CONSUMER, 1).unwrap();
        assert_eq!(producer.available(&pages), Err(RingError::Indices));
        pages.store(CONSUMER, 0u32.wrapping_sub(16)).unwrap();
        assert_eq!(producer.available(&pages), Ok(0));
        pages.store(CONSUMER, 0u32.wrapping_sub(17)).unwrap();
        assert_eq!(producer.available(&pages), Err(RingError::Indices));
    }
}
