//! The two kinds of rings: of requests and responses, and of bytes.

mod bytes;
mod requests;

pub(crate) use bytes::{ByteRing, Side};
pub(crate) use requests::RequestRing;
