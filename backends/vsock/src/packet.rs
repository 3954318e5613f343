//! Headers of packets (virtio 1.2, section 5.10.6).

/// Bytes of a header.
pub const HEADER_LENGTH: usize = 44;

/// The address of the host.
pub(crate) const HOST_CID: u64 = 2;

/// The kind of connection that is served: a stream of bytes.
pub(crate) const STREAM: u16 = 1;

/// What a packet is for.
pub(crate) mod operation {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RESET: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const DATA: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`operation::SHUTDOWN`].
pub(crate) mod shutdown {
    /// The sender will receive no more.
    pub(crate) const RECEIVE: u32 = 1;
    /// The sender will send no more.
    pub(crate) const SEND: u32 = 2;
}

/// What a packet begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Context identifier of the sender.
    pub source_cid: u64,
    /// Context identifier of the receiver.
    pub destination_cid: u64,
    /// Port of the sender.
    pub source_port: u32,
    /// Port of the receiver.
    pub destination_port: u32,
    /// Bytes that follow the header.
    pub length: u32,
    /// Kind of connection.
    pub kind: u16,
    /// What the packet is for.
    pub operation: u16,
    /// Depends on the operation.
    pub flags: u32,
    /// Bytes that the sender has room for in all.
    pub room: u32,
    /// Bytes that the sender has passed on so far, modulo 2³².
    pub forwarded: u32,
}

impl Header {
    /// Reads a header.
    pub fn from_bytes(bytes: &[u8; HEADER_LENGTH]) -> Self {
        let number = |offset: usize, length: usize| {
            bytes[offset..offset + length].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
        };
        Self {
            source_cid: number(0, 8),
            destination_cid: number(8, 8),
            source_port: number(16, 4) as u32,
            destination_port: number(20, 4) as u32,
            length: number(24, 4) as u32,
            kind: number(28, 2) as u16,
            operation: number(30, 2) as u16,
            flags: number(32, 4) as u32,
            room: number(36, 4) as u32,
            forwarded: number(40, 4) as u32,
        }
    }

    /// The header as it is in memory.
    pub fn to_bytes(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(0, &self.source_cid.to_le_bytes());
        put(8, &self.destination_cid.to_le_bytes());
        put(16, &self.source_port.to_le_bytes());
        put(20, &self.destination_port.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.operation.to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.room.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }

    /// The refusal of this packet.
    pub(crate) fn refusal(&self) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            kind: self.kind,
            operation: operation::RESET,
            ..Self::default()
        }
    }
}
