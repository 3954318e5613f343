//! Sends frames: from the descriptors of the transmit ring to the back-end.
//!
//! Nothing is taken off the ring before the frame that it belongs to is whole and the back-end has
//! taken it, so there is nothing to remember of a frame that has to wait.

use super::E1000;
use super::interrupts::Kind;
use super::spec::{TCTL_ENABLE, cause, ctrl, register, transmit};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr, GuestRam, VolatileSlice};
use ambos_net::{Checksum, FRAME_MAX, Offload, SegmentKind, Segmentation, checksum};
use std::sync::atomic::Ordering;

/// Bytes of the longest headers that are changed here: a TCP header in IPv4, with all options and a
/// VLAN tag.
const HEADERS: usize = 256 + TAG;
/// Offset of the kind of a frame, and bytes of a VLAN tag there.
const ETHER_TYPE: usize = 12;
const TAG: usize = 4;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;

/// What a context descriptor says, for the frames that follow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Context {
    /// Where the IP header is, where its checksum goes, and its last byte.
    ip: (u8, u8, u16),
    /// Where the transport's header is, and where its checksum goes.
    transport: (u8, u8),
    command: u8,
    header: u8,
    segment: u16,
}

/// Contexts for checksums and for segmentation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Contexts {
    checksum: Context,
    segmentation: Context,
}

impl Context {
    fn of(words: [u32; 4]) -> Self {
        let [ip, transport, command, segment] = words;
        Self {
            ip: (ip as u8, (ip >> 8) as u8, (ip >> 16) as u16),
            transport: (transport as u8, (transport >> 8) as u8),
            command: (command >> 24) as u8,
            header: (segment >> 8) as u8,
            segment: (segment >> 16) as u16,
        }
    }
}

/// A frame as its descriptors describe it.
#[derive(Debug, Default)]
struct Frame {
    data: Vec<DmaRange>,
    length: usize,
    /// The descriptor that follows.
    next: u32,
    /// Descriptors whose status is to be written.
    reports: Vec<u32>,
    /// Whether all of these let the interrupt be delayed.
    delay: bool,
    contexts: Contexts,
    /// Whether a context is meant at all, and the one for segmentation.
    extended: bool,
    segment: bool,
    options: u8,
    /// A checksum after a legacy descriptor: where it begins, and where it goes.
    legacy: Option<(u8, u8)>,
    tag: Option<u16>,
}

impl E1000 {
    /// Sends what the driver has handed over, as long as the back-end has room.
    pub(super) fn transmit(&mut self) {
        if self.tctl & TCTL_ENABLE == 0 || !self.config.is_bus_master() {
            return;
        }
        let (mut reported, mut delay) = (false, true);
        let before = self.tx.head;
        // The driver cannot hand over more than there is while this goes on.
        for _ in 0..self.tx.entries() {
            if self.tx.available() == 0 {
                break;
            }
            let Some(frame) = self.scan() else { break };
            if !self.send(&frame) {
                break;
            }
            for &index in &frame.reports {
                let place = GuestPhysAddr(self.tx.address(index).wrapping_add(12));
                let _ = self.ram.memory().store(transmit::DONE, place, Ordering::Release);
            }
            self.contexts = frame.contexts;
            self.tx.head = frame.next;
            reported |= !frame.reports.is_empty();
            delay &= frame.delay;
        }
        if before != self.tx.head && self.tx.head == self.tx.tail {
            self.interrupts.raise(cause::TXQE);
        }
        if reported {
            let units = if delay { self.plain(register::TIDV) & 0xffff } else { 0 };
            let limit = self.plain(register::TADV) & 0xffff;
            self.interrupts.raise_later(Kind::Transmit, units, limit);
        }
        self.drive_pin();
    }

    /// Reads the descriptors of the next frame; `None` if they are not all there yet.
    fn scan(&self) -> Option<Frame> {
        let mut frame = Frame { contexts: self.contexts, delay: true, ..Frame::default() };
        let mut index = self.tx.head;
        for _ in 0..self.tx.available() {
            let words = self.tx.read(&self.ram, index);
            let [low, high, control, status] = words;
            let command = (control >> 24) as u8;
            let extended = command & transmit::EXTENDED != 0;
            if command & transmit::REPORT != 0 {
                frame.reports.push(index);
                frame.delay &= command & transmit::DELAY != 0;
            }
            index = self.tx.after(index);
            frame.next = index;
            if extended && control >> 20 & 0xf == 0 {
                let context = Context::of(words);
                if command & transmit::SEGMENT != 0 {
                    frame.contexts.segmentation = context;
                } else {
                    frame.contexts.checksum = context;
                }
                continue;
            }
            if frame.data.is_empty() {
                frame.extended = extended;
                if extended {
                    frame.segment = command & transmit::SEGMENT != 0;
                    frame.options = (status >> 8) as u8;
                }
            }
            let length = control & if extended { 0xf_ffff } else { 0xffff };
            let address = u64::from(high) << 32 | u64::from(low);
            frame.length = frame.length.saturating_add(length as usize);
            // One that is too long is not sent, so what it is made of does not matter.
            if frame.length <= FRAME_MAX {
                frame.data.push(DmaRange { address, length });
            }
            if command & transmit::END != 0 {
                if !extended && command & transmit::INSERT_CHECKSUM != 0 {
                    frame.legacy = Some(((status >> 8) as u8, (control >> 16) as u8));
                }
                if command & transmit::VLAN != 0 && self.ctrl & ctrl::VLAN != 0 {
                    frame.tag = Some((status >> 16) as u16);
                }
                return Some(frame);
            }
        }
        None
    }

    /// Sends a frame; `false` if the back-end has no room for it. Frames that make no sense are
    /// dropped.
    fn send(&mut self, frame: &Frame) -> bool {
        if frame.length > FRAME_MAX || frame.length < ETHER_TYPE + 2 {
            return true;
        }
        let mut header = [0; HEADERS];
        let Some((offload, taken, made)) = self.prepare(frame, &mut header) else { return true };
        let rest = skip(&frame.data, taken);
        let Ok(slices) = self.ram.dma_slices(&rest) else { return true };
        let mut parts = Vec::with_capacity(slices.len() + 1);
        let mut to = [0; 6];
        if made > 0 {
            to.copy_from_slice(&header[..6]);
            parts.push(VolatileSlice::from(&mut header[..made]));
        } else if read_front(&self.ram, &frame.data, &mut to).is_none() {
            return true;
        }
        parts.extend(slices);
        if self.network.transmit(&offload, &parts).is_err() {
            return false;
        }
        let segments = offload.segmentation.map_or(1, |segmentation| {
            let payload = frame.length.saturating_sub(segmentation.header.into());
            self.statistics.segmented();
            payload.div_ceil(segmentation.size.max(1).into()).max(1)
        });
        self.statistics.sent(segments, frame.length, to);
        true
    }

    /// Makes the headers that differ from what the driver has written, in `header`. Returns what is
    /// left to the back-end, how many of the driver's bytes these headers stand for, and how many
    /// bytes they are.
    fn prepare(
        &self,
        frame: &Frame,
        header: &mut [u8; HEADERS],
    ) -> Option<(Offload, usize, usize)> {
        let mut offload = Offload::NONE;
        let context =
            if frame.segment { &frame.contexts.segmentation } else { &frame.contexts.checksum };
        let transport = frame.extended && frame.options & transmit::TRANSPORT_CHECKSUM != 0;
        let ip = frame.extended && frame.options & transmit::IP_CHECKSUM != 0;
        let checksum = match frame.legacy {
            Some(legacy) => Some(legacy),
            None => (transport || frame.segment).then_some(context.transport),
        };
        if let Some((start, place)) = checksum
            && place >= start
        {
            let offset = u16::from(place - start);
            offload.checksum = Some(Checksum { start: start.into(), offset });
        }
        let needed = if frame.segment {
            usize::from(context.header)
        } else if ip {
            usize::from(context.ip.2.min(254) + 1).max(usize::from(context.ip.1) + 2)
        } else if frame.tag.is_some() {
            ETHER_TYPE
        } else {
            return Some((offload, 0, 0));
        };
        let taken = needed.max(ETHER_TYPE).min(frame.length).min(HEADERS - TAG);
        read_front(&self.ram, &frame.data, &mut header[..taken])?;
        let head = &mut header[..taken];
        if frame.segment {
            offload.segmentation = Some(begin_segments(head, frame.length, context)?);
        }
        if ip {
            insert_ip_checksum(head, context.ip)?;
        }
        let Some(tag) = frame.tag else { return Some((offload, taken, taken)) };
        header.copy_within(ETHER_TYPE..taken, ETHER_TYPE + TAG);
        let kind = self.plain(register::VET) as u16;
        header[ETHER_TYPE..ETHER_TYPE + 2].copy_from_slice(&kind.to_be_bytes());
        header[ETHER_TYPE + 2..ETHER_TYPE + TAG].copy_from_slice(&tag.to_be_bytes());
        if let Some(checksum) = &mut offload.checksum {
            checksum.start += TAG as u16;
        }
        if let Some(segmentation) = &mut offload.segmentation {
            segmentation.header += TAG as u16;
        }
        Some((offload, taken, taken + TAG))
    }
}

/// Completes the headers of a large frame of `length` bytes: drivers leave the lengths out, which
/// would be different for each segment.
fn begin_segments(head: &mut [u8], length: usize, context: &Context) -> Option<Segmentation> {
    if context.command & transmit::TCP == 0 {
        return None;
    }
    let (network, start) = (usize::from(context.ip.0), usize::from(context.transport.0));
    let version_4 = context.command & transmit::IP_V4 != 0;
    let (kind, field, value) = if version_4 {
        (SegmentKind::TcpV4, network + 2, length.checked_sub(network)?)
    } else {
        (SegmentKind::TcpV6, network + 4, length.checked_sub(network + IPV6_HEADER)?)
    };
    let value = u16::try_from(value).ok()?;
    head.get_mut(field..field + 2)?.copy_from_slice(&value.to_be_bytes());
    // The sum of the pseudo-header lacks the length, too.
    let transport = u16::try_from(length.checked_sub(start)?).ok()?;
    let place = usize::from(context.transport.1);
    let sum: &mut [u8; 2] = head.get_mut(place..place + 2)?.first_chunk_mut()?;
    *sum = checksum::join(u16::from_be_bytes(*sum), transport).to_be_bytes();
    let (size, header) = (context.segment, context.header.into());
    (size > 0).then_some(Segmentation { kind, ecn: false, size, header })
}

/// Computes the checksum of the IP header from `first` to `last`, and puts it at `place`.
fn insert_ip_checksum(head: &mut [u8], (first, place, last): (u8, u8, u16)) -> Option<()> {
    let place = usize::from(place);
    head.get_mut(place..place + 2)?.fill(0);
    let field = checksum::field(checksum::add(0, head.get(first.into()..=last.into())?));
    head.get_mut(place..place + 2)?.copy_from_slice(&field);
    Some(())
}

/// Copies the first bytes of what `data` names.
fn read_front(ram: &GuestRam, data: &[DmaRange], bytes: &mut [u8]) -> Option<()> {
    let mut rest = bytes;
    for range in data {
        let (now, later) = rest.split_at_mut(rest.len().min(range.length as usize));
        ram.memory().read_slice(now, GuestPhysAddr(range.address)).ok()?;
        rest = later;
    }
    rest.is_empty().then_some(())
}

/// What `data` names without its first `length` bytes.
fn skip(data: &[DmaRange], length: usize) -> Vec<DmaRange> {
    let mut left = length;
    let ranges = data.iter().filter_map(|range| {
        let skipped = left.min(range.length as usize);
        left -= skipped;
        let length = range.length - skipped as u32;
        let address = range.address.wrapping_add(skipped as u64);
        (length > 0).then_some(DmaRange { address, length })
    });
    ranges.collect()
}
