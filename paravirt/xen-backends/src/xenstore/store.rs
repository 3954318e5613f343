//! What requests do.

use super::path::Path;
use super::permissions::{DomainId, Permissions, Rights};
use super::quota;
use super::transaction::{Edit, Transaction};
use super::tree::{Node, Tree};
use super::watch::{Change, Event, Events, Watch, Watched};
use super::wire::{self, PAYLOAD_MAX, StoreError, kind};
use std::collections::BTreeMap;

/// What a request without an answer of its own is answered.
const OK: &[u8] = b"OK\0";
/// Most bytes of a special watch's name.
const SPECIAL_MAX: usize = 2048;

/// One who sends requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId(usize);

#[derive(Debug)]
struct Connection {
    domain: DomainId,
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    last_transaction: u32,
    events: Events,
}

/// The tree, who uses it, and what they wait for.
#[derive(Debug, Default)]
pub(crate) struct Store {
    tree: Tree,
    connections: Vec<Connection>,
}

type Reply = Result<Vec<u8>, StoreError>;

impl Store {
    /// Lets one more send requests, in the name of `domain`.
    pub(crate) fn connect(&mut self, domain: DomainId) -> ConnectionId {
        self.connections.push(Connection {
            domain,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            events: Events::default(),
        });
        ConnectionId(self.connections.len() - 1)
    }

    /// Forgets the watches and transactions of a connection, and what it did not fetch.
    pub(crate) fn reset(&mut self, id: ConnectionId) {
        let connection = &mut self.connections[id.0];
        connection.watches.clear();
        connection.transactions.clear();
        connection.events = Events::default();
    }

    /// The next event for a connection.
    pub(crate) fn next_event(&mut self, id: ConnectionId) -> Option<Event> {
        self.connections[id.0].events.pop()
    }

    /// Serves a request; returns the payload of its answer.
    ///
    /// # Errors
    ///
    /// [`StoreError`], which becomes the answer.
    pub(crate) fn serve(
        &mut self,
        id: ConnectionId,
        request: u32,
        transaction: u32,
        payload: &[u8],
    ) -> Reply {
        let domain = self.connections[id.0].domain;
        if transaction != 0 && !self.connections[id.0].transactions.contains_key(&transaction) {
            return Err(StoreError::NoEntry);
        }
        let place = Place { id, domain, transaction };
        match request {
            kind::DIRECTORY => self.directory(place, wire::string(payload)?),
            kind::DIRECTORY_PART => self.directory_part(place, payload),
            kind::READ => {
                let path = Path::parse(wire::string(payload)?, domain)?;
                Ok(self.readable(place, &path)?.value.clone())
            }
            kind::GET_PERMS => {
                let path = Path::parse(wire::string(payload)?, domain)?;
                Ok(self.readable(place, &path)?.permissions.to_string().into())
            }
            kind::WRITE => {
                let (path, value) = wire::string_and_bytes(payload)?;
                self.put(place, Path::parse(path, domain)?, Some(value))
            }
            kind::MKDIR => {
                let path = Path::parse(wire::string(payload)?, domain)?;
                match self.permitted(place, &path, Rights::WRITE) {
                    // It is there already, which is as well.
                    Ok(_) => Ok(OK.to_vec()),
                    Err(StoreError::NoEntry) => self.put(place, path, None),
                    Err(error) => Err(error),
                }
            }
            kind::RM => self.remove(place, Path::parse(wire::string(payload)?, domain)?),
            kind::SET_PERMS => self.set_permissions(place, payload),
            kind::WATCH => self.watch(id, payload),
            kind::UNWATCH => self.unwatch(id, payload),
            kind::RESET_WATCHES => {
                self.reset(id);
                Ok(OK.to_vec())
            }
            kind::TRANSACTION_START => self.start(place),
            kind::TRANSACTION_END => self.end(place, wire::string(payload)?),
            kind::GET_DOMAIN_PATH => {
                let other = domain_number(wire::string(payload)?)?;
                Ok(format!("{}\0", other.path()).into())
            }
            kind::IS_DOMAIN_INTRODUCED => {
                let other = domain_number(wire::string(payload)?)?;
                let known = self.connections.iter().any(|connection| connection.domain == other);
                Ok(if known { b"T\0" } else { b"F\0" }.to_vec())
            }
            // There is one guest, and nobody introduces others.
            kind::CONTROL | kind::INTRODUCE | kind::RELEASE | kind::RESUME | kind::SET_TARGET => {
                Err(StoreError::Access)
            }
            _ => Err(StoreError::NoSuchRequest),
        }
    }

    /// The tree as `place` sees it.
    fn view(&self, place: Place) -> &Tree {
        let transactions = &self.connections[place.id.0].transactions;
        transactions.get(&place.transaction).map_or(&self.tree, |transaction| &transaction.tree)
    }

    /// Notes that a transaction depends on a node.
    fn see(&mut self, place: Place, path: &Path) -> Result<(), StoreError> {
        let transactions = &mut self.connections[place.id.0].transactions;
        match transactions.get_mut(&place.transaction) {
            Some(transaction) => transaction.see(path),
            None => Ok(()),
        }
    }

    /// A node with which a request may do what `rights` say. That a node does not exist is
    /// only told to who has these rights on the nearest one above it.
    fn permitted(
        &mut self,
        place: Place,
        path: &Path,
        rights: Rights,
    ) -> Result<&Node, StoreError> {
        self.see(place, path)?;
        let (nearest, node) = self.view(place).nearest(path);
        if !node.permissions.permit(place.domain, rights) {
            return Err(StoreError::Access);
        }
        if nearest == *path { Ok(node) } else { Err(StoreError::NoEntry) }
    }

    fn readable(&mut self, place: Place, path: &Path) -> Result<&Node, StoreError> {
        self.permitted(place, path, Rights::READ)
    }

    fn directory(&mut self, place: Place, path: &str) -> Reply {
        let path = Path::parse(path, place.domain)?;
        let names = names(self.readable(place, &path)?);
        if names.len() > PAYLOAD_MAX { Err(StoreError::TooBig) } else { Ok(names) }
    }

    /// A part of a directory that is too big for one answer.
    fn directory_part(&mut self, place: Place, payload: &[u8]) -> Reply {
        let [path, offset] = wire::strings(payload)?[..] else { return Err(StoreError::Invalid) };
        let path = Path::parse(path, place.domain)?;
        let offset: usize = offset.parse().map_err(|_| StoreError::Invalid)?;
        let node = self.readable(place, &path)?;
        let mut reply = format!("{}\0", node.version).into_bytes();
        let all = names(node);
        let rest = all.get(offset..).unwrap_or_default();
        // One byte more says that this is the end.
        let room = PAYLOAD_MAX - reply.len() - 1;
        if rest.len() <= room {
            reply.extend(rest);
            reply.push(0);
        } else {
            let whole = rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |end| end + 1);
            reply.extend(&rest[..whole]);
        }
        Ok(reply)
    }

    fn put(&mut self, place: Place, path: Path, value: Option<&[u8]>) -> Reply {
        match self.permitted(place, &path, Rights::WRITE) {
            Ok(_) | Err(StoreError::NoEntry) => {}
            Err(error) => return Err(error),
        }
        if !place.domain.is_privileged() {
            if value.is_some_and(|value| value.len() > quota::VALUE) {
                return Err(StoreError::NoSpace);
            }
            let view = self.view(place);
            let missing =
                path.segments().count().saturating_sub(view.nearest(&path).0.segments().count());
            let owned = u64::from(view.owned(place.domain)) + missing as u64;
            if missing > 0 && owned > u64::from(quota::NODES) {
                return Err(StoreError::NoSpace);
            }
        }
        self.edit(place, path, Edit::Put(value.map(<[u8]>::to_vec)))
    }

    fn remove(&mut self, place: Place, path: Path) -> Reply {
        let Some(parent) = path.parent() else { return Err(StoreError::Invalid) };
        match self.permitted(place, &path, Rights::WRITE).map(|_| ()) {
            Ok(()) => self.edit(place, path, Edit::Remove),
            // Nothing is to be removed; but a node there must at least be possible.
            Err(StoreError::NoEntry) if self.view(place).get(&parent).is_some() => Ok(OK.to_vec()),
            Err(error) => Err(error),
        }
    }

    fn set_permissions(&mut self, place: Place, payload: &[u8]) -> Reply {
        let strings = wire::strings(payload)?;
        let [path, words @ ..] = &strings[..] else { return Err(StoreError::Invalid) };
        let (path, permissions) = (Path::parse(path, place.domain)?, Permissions::parse(words)?);
        let owner = self.permitted(place, &path, Rights::WRITE)?.permissions.owner;
        if !place.domain.is_privileged() {
            if owner != place.domain {
                return Err(StoreError::Access);
            }
            if permissions.owner != owner {
                return Err(StoreError::NotPermitted);
            }
            if permissions.len() > quota::PERMISSIONS {
                return Err(StoreError::NoSpace);
            }
        }
        self.edit(place, path, Edit::SetPermissions(permissions))
    }

    /// Changes the tree that `place` sees.
    fn edit(&mut self, place: Place, path: Path, edit: Edit) -> Reply {
        let transactions = &mut self.connections[place.id.0].transactions;
        match transactions.get_mut(&place.transaction) {
            Some(transaction) => transaction.edit(path, edit, place.domain)?,
            None => self.change(&path, &edit, place.domain),
        }
        Ok(OK.to_vec())
    }

    /// Changes the tree, and tells who watches.
    fn change(&mut self, path: &Path, edit: &Edit, domain: DomainId) {
        let before = self.tree.get(path).cloned();
        edit.apply(&mut self.tree, path, domain);
        let after = self.tree.get(path);
        let permissions = [before.as_ref(), after].map(|node| node.map(|node| &node.permissions));
        let changed = Change { path, exact: false, permissions };
        tell(&mut self.connections, &changed);
        if let (Edit::Remove, Some(before)) = (edit, &before) {
            before.for_each(path, &mut |below, node| {
                if below != path {
                    let permissions = [Some(&node.permissions), None];
                    tell(&mut self.connections, &Change { path: below, exact: true, permissions });
                }
            });
        }
    }

    fn watch(&mut self, id: ConnectionId, payload: &[u8]) -> Reply {
        let (watch, domain) = self.parse_watch(id, payload)?;
        let connection = &mut self.connections[id.0];
        if connection.watches.contains(&watch) {
            return Err(StoreError::Exists);
        }
        if !domain.is_privileged() && connection.watches.len() >= quota::WATCHES {
            return Err(StoreError::TooBig);
        }
        // The first event comes at once, so that nothing is missed in between.
        let name = watch.watched.name(domain);
        connection.events.push(Event { name, token: watch.token.clone() });
        connection.watches.push(watch);
        Ok(OK.to_vec())
    }

    fn unwatch(&mut self, id: ConnectionId, payload: &[u8]) -> Reply {
        let (watch, _) = self.parse_watch(id, payload)?;
        let watches = &mut self.connections[id.0].watches;
        let place = watches.iter().position(|other| *other == watch);
        watches.remove(place.ok_or(StoreError::NoEntry)?);
        Ok(OK.to_vec())
    }

    fn parse_watch(
        &self,
        id: ConnectionId,
        payload: &[u8],
    ) -> Result<(Watch, DomainId), StoreError> {
        let domain = self.connections[id.0].domain;
        let [name, token, ..] = wire::strings(payload)?[..] else {
            return Err(StoreError::Invalid);
        };
        let watched = if name.starts_with('@') {
            if name.len() > SPECIAL_MAX {
                return Err(StoreError::Invalid);
            }
            Watched::Special(name.to_owned())
        } else {
            Watched::Node { path: Path::parse(name, domain)?, relative: !name.starts_with('/') }
        };
        Ok((Watch { watched, token: token.to_owned() }, domain))
    }

    fn start(&mut self, place: Place) -> Reply {
        if place.transaction != 0 {
            return Err(StoreError::Busy);
        }
        let connection = &mut self.connections[place.id.0];
        if !place.domain.is_privileged() && connection.transactions.len() >= quota::TRANSACTIONS {
            return Err(StoreError::NoSpace);
        }
        // Zero is no transaction; and a number may still be in use after they all were.
        let mut number = connection.last_transaction.wrapping_add(1);
        while number == 0 || connection.transactions.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        connection.last_transaction = number;
        connection.transactions.insert(number, Transaction::new(&self.tree));
        Ok(format!("{number}\0").into())
    }

    fn end(&mut self, place: Place, how: &str) -> Reply {
        let commit = match how {
            "T" => true,
            "F" => false,
            _ => return Err(StoreError::Invalid),
        };
        let transactions = &mut self.connections[place.id.0].transactions;
        let transaction = transactions.remove(&place.transaction).ok_or(StoreError::NoEntry)?;
        if !commit {
            return Ok(OK.to_vec());
        }
        let edits = transaction.finish(&self.tree)?;
        if !place.domain.is_privileged() {
            // Others of this domain's transactions may have made nodes meanwhile.
            let mut tree = self.tree.clone();
            let owned = tree.owned(place.domain);
            edits.iter().for_each(|(path, edit)| edit.apply(&mut tree, path, place.domain));
            if tree.owned(place.domain) > owned.max(quota::NODES) {
                return Err(StoreError::NoSpace);
            }
        }
        for (path, edit) in &edits {
            self.change(path, edit, place.domain);
        }
        Ok(OK.to_vec())
    }
}

/// What the control domain does in its own name.
impl Store {
    /// Writes a value. The path is well-formed, because it is ours.
    pub(crate) fn write(&mut self, path: &Path, value: &str) {
        self.change(path, &Edit::Put(Some(value.into())), DomainId::CONTROL);
    }

    /// Writes a value and says who may do what with it.
    pub(crate) fn write_for(&mut self, path: &Path, value: &str, permissions: Permissions) {
        self.write(path, value);
        self.change(path, &Edit::SetPermissions(permissions), DomainId::CONTROL);
    }

    /// A value, if it is there and a text.
    pub(crate) fn read(&self, path: &Path) -> Option<&str> {
        self.tree.get(path).and_then(|node| std::str::from_utf8(&node.value).ok())
    }

    /// Whether the count of every owner's nodes is what it should be.
    #[cfg(test)]
    pub(crate) fn counts_are_right(&self) -> bool {
        self.tree.counts_are_right()
    }

    /// Watches a node in the name of `id`.
    pub(crate) fn add_watch(&mut self, id: ConnectionId, path: &Path, token: &str) {
        let watched = Watched::Node { path: path.clone(), relative: false };
        self.connections[id.0].watches.push(Watch { watched, token: token.to_owned() });
    }
}

/// Where a request comes from and what it works on.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: ConnectionId,
    domain: DomainId,
    transaction: u32,
}

/// Tells a change to everybody who watches and may know.
fn tell(connections: &mut [Connection], change: &Change<'_>) {
    for connection in connections {
        for watch in &connection.watches {
            if let Some(event) = change.event(watch, connection.domain) {
                connection.events.push(event);
            }
        }
    }
}

/// The names of a node's children, each ended by a NUL.
fn names(node: &Node) -> Vec<u8> {
    node.children.keys().flat_map(|name| name.bytes().chain([0])).collect()
}

fn domain_number(text: &str) -> Result<DomainId, StoreError> {
    text.parse().map(DomainId).map_err(|_| StoreError::Invalid)
}
