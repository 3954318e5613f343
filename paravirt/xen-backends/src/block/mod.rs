//! The back half of a disk (`io/blkif.h`): blkback.
//!
//! Requests are served where the guest notifies, on the vCPU's thread: with one request at a time, which
//! is what a random read is, a hand-over to another thread would take longer than the request. While
//! requests come, the ring is looked at again without being asked to; only then does the back half ask to
//! be notified.
//!
//! Pages are taken into use for each request anew. That is only an entry of the grant table here,
//! where granted pages need not be mapped; so persistent grants, for which the guest copies
//! all data once more, are not offered.

mod device;
mod queue;
mod request;

pub(crate) use device::BlockBack;

#[cfg(test)]
mod tests;
