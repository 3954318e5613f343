//! Requests, as a 64-bit guest lays them out.

use crate::grants::GrantRef;

/// Bytes of a slot: of the largest request.
pub(super) const SLOT: usize = 112;
/// Segments that a slot has room for.
const SEGMENTS: usize = 11;
/// Pages of segments that an indirect request names.
const INDIRECT_PAGES: usize = 8;
/// Segments that an indirect request may have.
pub(super) const INDIRECT_MAX: usize = 256;
/// Bytes of a segment.
const SEGMENT: usize = 8;
/// Segments in a page.
const SEGMENTS_OF_PAGE: usize = 4096 / SEGMENT;
/// Sectors of a page.
const SECTORS_OF_PAGE: u8 = 8;

/// Operations.
pub(super) mod operation {
    pub(crate) const READ: u8 = 0;
    pub(crate) const WRITE: u8 = 1;
    pub(crate) const WRITE_BARRIER: u8 = 2;
    pub(crate) const FLUSH: u8 = 3;
    pub(crate) const DISCARD: u8 = 5;
    pub(crate) const INDIRECT: u8 = 6;
}

/// Discard: the data must be unreadable afterwards.
const SECURE: u8 = 1;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Okay = 0,
    Error = -1,
    NotSupported = -2,
}

/// Some sectors of a granted page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) page: GrantRef,
    /// Bytes from the page's beginning.
    pub(super) offset: u32,
    /// Bytes.
    pub(super) length: u32,
}

impl Segment {
    fn decode(bytes: &[u8; SEGMENT]) -> Option<Self> {
        let [g0, g1, g2, g3, first, last, _, _] = *bytes;
        if last >= SECTORS_OF_PAGE || first > last {
            return None;
        }
        Some(Self {
            page: GrantRef(u32::from_le_bytes([g0, g1, g2, g3])),
            offset: u32::from(first) * 512,
            length: u32::from(last - first + 1) * 512,
        })
    }
}

/// Where the segments of a transfer are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segments {
    Direct(Vec<Segment>),
    /// In granted pages.
    Indirect {
        pages: Vec<GrantRef>,
        count: usize,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Read {
        sector: u64,
        segments: Segments,
    },
    /// With `barrier`, after all earlier writes and before all later ones.
    Write {
        sector: u64,
        segments: Segments,
        barrier: bool,
    },
    Flush,
    Discard {
        sector: u64,
        sectors: u64,
    },
    /// It cannot be done, and this is the answer.
    Refuse(Status),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Chosen by the front half, and repeated in the answer.
    pub(super) id: u64,
    /// What is done, also of an indirect request; repeated in the answer.
    pub(super) operation: u8,
    pub(super) action: Action,
}

impl Request {
    pub(super) fn decode(slot: &[u8; SLOT]) -> Self {
        let (operation, action) = if slot[0] == operation::INDIRECT {
            let count = usize::from(u16::from_le_bytes([slot[2], slot[3]]));
            (slot[1], indirect(slot, count))
        } else {
            (slot[0], direct(slot, slot[0]))
        };
        Self { id: long(slot, 8), operation, action }
    }

    /// The answer: as much of a slot as matters.
    pub(super) fn answer(&self, status: Status) -> [u8; 16] {
        let mut answer = [0; 16];
        answer[..8].copy_from_slice(&self.id.to_le_bytes());
        answer[8] = self.operation;
        answer[10..12].copy_from_slice(&(status as i16).to_le_bytes());
        answer
    }
}

fn direct(slot: &[u8; SLOT], operation: u8) -> Action {
    let sector = long(slot, 16);
    let segments = || {
        let bytes = slot.get(24..24 + usize::from(slot[1]).min(SEGMENTS + 1) * SEGMENT)?;
        let (segments, _) = bytes.as_chunks::<SEGMENT>();
        segments.iter().map(Segment::decode).collect::<Option<Vec<_>>>()
    };
    match operation {
        operation::READ | operation::WRITE | operation::WRITE_BARRIER | operation::FLUSH => {}
        operation::DISCARD if slot[1] & SECURE == 0 => {
            return Action::Discard { sector, sectors: long(slot, 24) };
        }
        _ => return Action::Refuse(Status::NotSupported),
    }
    let barrier = matches!(operation, operation::WRITE_BARRIER | operation::FLUSH);
    match segments() {
        None => Action::Refuse(Status::Error),
        Some(segments) if segments.is_empty() && barrier => Action::Flush,
        Some(segments) if segments.is_empty() => Action::Refuse(Status::Error),
        Some(segments) => {
            let segments = Segments::Direct(segments);
            if operation == operation::READ {
                Action::Read { sector, segments }
            } else {
                Action::Write { sector, segments, barrier }
            }
        }
    }
}

fn indirect(slot: &[u8; SLOT], count: usize) -> Action {
    let pages = count.div_ceil(SEGMENTS_OF_PAGE);
    if count == 0 || count > INDIRECT_MAX || pages > INDIRECT_PAGES {
        return Action::Refuse(Status::Error);
    }
    let (words, _) = slot[28..28 + pages * 4].as_chunks::<4>();
    let pages = words.iter().map(|word| GrantRef(u32::from_le_bytes(*word))).collect();
    let (sector, segments) = (long(slot, 16), Segments::Indirect { pages, count });
    match slot[1] {
        operation::READ => Action::Read { sector, segments },
        operation::WRITE => Action::Write { sector, segments, barrier: false },
        operation::WRITE_BARRIER | operation::FLUSH => {
            Action::Write { sector, segments, barrier: true }
        }
        _ => Action::Refuse(Status::NotSupported),
    }
}

/// The segments that pages of descriptions hold.
pub(super) fn decode_segments(bytes: &[u8]) -> Option<Vec<Segment>> {
    let (segments, _) = bytes.as_chunks::<SEGMENT>();
    segments.iter().map(Segment::decode).collect()
}

/// Bytes that `count` segments are described in.
pub(super) fn described_in(count: usize) -> usize {
    count * SEGMENT
}

fn long(slot: &[u8; SLOT], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| slot[at + byte]))
}
