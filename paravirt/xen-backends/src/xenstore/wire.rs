//! Messages (`io/xs_wire.h`).

use thiserror::Error;

/// Bytes of what a message begins with.
pub(crate) const HEADER: usize = 16;
/// Most bytes that follow it.
pub(crate) const PAYLOAD_MAX: usize = 4096;

/// What a message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// One of [`kind`].
    pub(crate) kind: u32,
    /// Chosen by who asks, repeated in the answer.
    pub(crate) request: u32,
    /// The transaction, or zero.
    pub(crate) transaction: u32,
    /// Bytes that follow.
    pub(crate) length: u32,
}

impl Header {
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Self { kind: word(0), request: word(4), transaction: word(8), length: word(12) }
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [self.kind, self.request, self.transaction, self.length];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// Kinds of messages.
pub(crate) mod kind {
    pub(crate) const CONTROL: u32 = 0;
    pub(crate) const DIRECTORY: u32 = 1;
    pub(crate) const READ: u32 = 2;
    pub(crate) const GET_PERMS: u32 = 3;
    pub(crate) const WATCH: u32 = 4;
    pub(crate) const UNWATCH: u32 = 5;
    pub(crate) const TRANSACTION_START: u32 = 6;
    pub(crate) const TRANSACTION_END: u32 = 7;
    pub(crate) const INTRODUCE: u32 = 8;
    pub(crate) const RELEASE: u32 = 9;
    pub(crate) const GET_DOMAIN_PATH: u32 = 10;
    pub(crate) const WRITE: u32 = 11;
    pub(crate) const MKDIR: u32 = 12;
    pub(crate) const RM: u32 = 13;
    pub(crate) const SET_PERMS: u32 = 14;
    pub(crate) const WATCH_EVENT: u32 = 15;
    pub(crate) const ERROR: u32 = 16;
    pub(crate) const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub(crate) const RESUME: u32 = 18;
    pub(crate) const SET_TARGET: u32 = 19;
    pub(crate) const RESET_WATCHES: u32 = 21;
    pub(crate) const DIRECTORY_PART: u32 = 22;
}

/// Why a request failed. On the wire it is the name of an error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum StoreError {
    #[error("EINVAL")]
    Invalid,
    #[error("EACCES")]
    Access,
    #[error("EEXIST")]
    Exists,
    #[error("ENOENT")]
    NoEntry,
    #[error("ENOSPC")]
    NoSpace,
    #[error("ENOSYS")]
    NoSuchRequest,
    #[error("EBUSY")]
    Busy,
    #[error("EAGAIN")]
    Again,
    #[error("E2BIG")]
    TooBig,
    #[error("EPERM")]
    NotPermitted,
}

/// The strings of a payload, each of which a NUL ends.
pub(crate) fn strings(payload: &[u8]) -> Result<Vec<&str>, StoreError> {
    let Some((0, text)) = payload.split_last() else { return Err(StoreError::Invalid) };
    text.split(|byte| *byte == 0).map(as_text).collect()
}

/// The only string of a payload.
pub(crate) fn string(payload: &[u8]) -> Result<&str, StoreError> {
    match strings(payload)?[..] {
        [text] => Ok(text),
        _ => Err(StoreError::Invalid),
    }
}

/// The string that a payload begins with, and the bytes behind its NUL.
pub(crate) fn string_and_bytes(payload: &[u8]) -> Result<(&str, &[u8]), StoreError> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(StoreError::Invalid)?;
    Ok((as_text(&payload[..end])?, &payload[end + 1..]))
}

fn as_text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Invalid)
}
