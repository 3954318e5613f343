//! How much a domain without privileges may make the store hold.

/// Nodes that it owns.
pub(crate) const NODES: u32 = 1000;
/// Bytes of one node's value.
pub(crate) const VALUE: usize = 2048;
/// Entries of one node's permissions.
pub(crate) const PERMISSIONS: usize = 5;
/// Watches.
pub(crate) const WATCHES: usize = 128;
/// Transactions at a time.
pub(crate) const TRANSACTIONS: usize = 10;
/// Nodes that one transaction looks at or changes.
pub(crate) const NODES_OF_TRANSACTION: usize = 1024;
/// Events that wait to be fetched. More of them are lost.
pub(crate) const EVENTS: usize = 4096;
/// Bytes of all of them.
pub(crate) const EVENT_BYTES: usize = 1 << 20;
