//! Xenstore: the tree of small values through which domains find each other.
//!
//! [`Store`] is the tree with its watches and transactions; it knows connections, but neither
//! rings nor event channels. [`StoreRing`] carries one connection over the page that the guest shares.
//! What a request means, and which error it ends with, follows `docs/misc/xenstore.txt` of Xen and,
//! where that leaves something open, what the C xenstored does.
//!
//! # Isolation
//!
//! The tree is persistent: its nodes are shared and copied when they change. A transaction works on a
//! copy, which costs nothing to make, and remembers which nodes it looked at. It succeeds if the
//! tree still has the same versions of all of them; then its changes are made again there.
//!
//! # Bounds
//!
//! What a guest can make the store hold is limited by [`quota`]: nodes and their sizes, watches,
//! transactions, and events that it does not fetch.

mod path;
mod permissions;
mod quota;
mod ring;
mod store;
mod transaction;
mod tree;
mod watch;
mod wire;

pub(crate) use path::Path;
pub(crate) use permissions::{DomainId, Permissions};
pub(crate) use ring::StoreRing;
pub(crate) use store::{ConnectionId, Store};

#[cfg(test)]
mod tests;
