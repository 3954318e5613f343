//! The adapter as its driver sees it.
