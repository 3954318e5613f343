//! The network as a guest sees it.
