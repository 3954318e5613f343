//! Layouts and numbers of `io/netif.h`.

use crate::grants::GrantRef;

/// Bytes of a slot of the ring of requests to send.
pub(super) const TRANSMIT_SLOT: usize = 12;
/// Bytes of a slot of the ring of pages to receive in.
pub(super) const RECEIVE_SLOT: usize = 8;

/// Flags of requests to send.
pub(super) mod transmit {
    /// The checksum is only begun.
    pub(crate) const CHECKSUM_BLANK: u16 = 1 << 0;
    /// The frame's data are known to be right.
    pub(crate) const DATA_VALIDATED: u16 = 1 << 1;
    /// The frame goes on in the next request.
    pub(crate) const MORE_DATA: u16 = 1 << 2;
    /// More about the frame is in the next slot.
    pub(crate) const EXTRA_INFO: u16 = 1 << 3;
}

/// Flags of received frames.
pub(super) mod receive {
    pub(crate) const DATA_VALIDATED: u16 = 1 << 0;
    pub(crate) const CHECKSUM_BLANK: u16 = 1 << 1;
    pub(crate) const MORE_DATA: u16 = 1 << 2;
    pub(crate) const EXTRA_INFO: u16 = 1 << 3;
}

/// Kinds of what a slot says more about a frame.
pub(super) mod extra {
    /// How the frame is to be cut into segments.
    pub(crate) const SEGMENTATION: u8 = 1;
    /// A group's address to listen to, or not to any more.
    pub(crate) const GROUP_ADD: u8 = 2;
    pub(crate) const GROUP_REMOVE: u8 = 3;
    /// Another such slot follows.
    pub(crate) const MORE: u8 = 1;
    pub(crate) const TCP_V4: u8 = 1;
    pub(crate) const TCP_V6: u8 = 2;
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Okay = 0,
    Error = -1,
    /// The slot was no request.
    Null = 1,
}

/// A request to send, or to go on with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendRequest {
    pub(super) page: GrantRef,
    pub(super) offset: u16,
    pub(super) flags: u16,
    pub(super) id: u16,
    /// Bytes: of the whole frame in its first request, of the part in all others.
    pub(super) size: u16,
}

impl SendRequest {
    pub(super) fn decode(slot: &[u8; TRANSMIT_SLOT]) -> Self {
        let half = |at: usize| u16::from_le_bytes([slot[at], slot[at + 1]]);
        Self {
            page: GrantRef(u32::from(half(0)) | u32::from(half(2)) << 16),
            offset: half(4),
            flags: half(6),
            id: half(8),
            size: half(10),
        }
    }
}

/// The answer to a request to send.
pub(super) fn sent(id: u16, status: Status) -> [u8; 4] {
    let ([a, b], [c, d]) = (id.to_le_bytes(), (status as i16).to_le_bytes());
    [a, b, c, d]
}

/// A page to receive in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReceiveRequest {
    pub(super) id: u16,
    pub(super) page: GrantRef,
}

impl ReceiveRequest {
    pub(super) fn decode(slot: &[u8; RECEIVE_SLOT]) -> Self {
        let [id_0, id_1, _, _, page @ ..] = *slot;
        Self { id: u16::from_le_bytes([id_0, id_1]), page: GrantRef(u32::from_le_bytes(page)) }
    }
}

/// Part of a frame is at the beginning of a page; `status` is its length or an error.
pub(super) fn received(id: u16, flags: u16, status: i16) -> [u8; RECEIVE_SLOT] {
    let ([a, b], [c, d], [e, f]) = (id.to_le_bytes(), flags.to_le_bytes(), status.to_le_bytes());
    [a, b, 0, 0, c, d, e, f]
}

/// How a received frame is to be cut.
pub(super) fn segmentation(kind: u8, size: u16) -> [u8; RECEIVE_SLOT] {
    let [low, high] = size.to_le_bytes();
    [extra::SEGMENTATION, 0, low, high, kind, 0, 0, 0]
}
