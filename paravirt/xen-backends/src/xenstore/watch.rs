//! Watches, and the events that they cause.

use super::path::Path;
use super::permissions::{DomainId, Permissions, Rights};
use super::quota;
use super::wire::PAYLOAD_MAX;
use std::collections::VecDeque;

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Watched {
    /// A node and all below it.
    Node {
        path: Path,
        /// It was named from the domain's own node, and events name nodes so, too.
        relative: bool,
    },
    /// Something that is no node, such as `@releaseDomain`.
    Special(String),
}

impl Watched {
    /// What an event calls the watched thing itself.
    pub(crate) fn name(&self, domain: DomainId) -> String {
        match self {
            Self::Node { path, relative: true } => path.relative_to(domain).to_owned(),
            Self::Node { path, relative: false } => path.to_string(),
            Self::Special(name) => name.clone(),
        }
    }
}

/// A watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) watched: Watched,
    /// Chosen by who watches, and told with each event.
    pub(crate) token: String,
}

/// Something changed that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// What the watcher calls the node.
    pub(crate) name: String,
    pub(crate) token: String,
}

impl Event {
    /// Bytes of the message's payload.
    fn length(&self) -> usize {
        self.name.len() + self.token.len() + 2
    }
}

/// Events that wait to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Events {
    waiting: VecDeque<Event>,
    bytes: usize,
    /// Some did not fit.
    lost: bool,
}

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        let length = event.length();
        if length > PAYLOAD_MAX {
            return;
        }
        if self.waiting.len() >= quota::EVENTS || self.bytes + length > quota::EVENT_BYTES {
            if !std::mem::replace(&mut self.lost, true) {
                tracing::warn!("the guest does not fetch its xenstore events; some are lost");
            }
            return;
        }
        self.bytes += length;
        self.waiting.push_back(event);
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.waiting.pop_front()?;
        self.bytes -= event.length();
        self.lost &= !self.waiting.is_empty();
        Some(event)
    }
}

/// A change of a node, as far as watches are concerned.
pub(crate) struct Change<'a> {
    pub(crate) path: &'a Path,
    /// It concerns only those who watch this very node: it went away with a node above it, of
    /// which the others are told.
    pub(crate) exact: bool,
    /// The node's permissions before and after, as far as it existed.
    pub(crate) permissions: [Option<&'a Permissions>; 2],
}

impl Change<'_> {
    /// The event of this change for a watch of `domain`, if it concerns it and if it may know.
    pub(crate) fn event(&self, watch: &Watch, domain: DomainId) -> Option<Event> {
        let Watched::Node { path, relative } = &watch.watched else { return None };
        let concerned = if self.exact { self.path == path } else { self.path.is_within(path) };
        let mut known = self.permissions.iter().flatten();
        if !concerned || !known.any(|permissions| permissions.permit(domain, Rights::READ)) {
            return None;
        }
        let name = if *relative { self.path.relative_to(domain) } else { self.path.as_str() };
        Some(Event { name: name.to_owned(), token: watch.token.clone() })
    }
}
