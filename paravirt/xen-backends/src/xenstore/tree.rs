//! The nodes.

use super::path::Path;
use super::permissions::{DomainId, Permissions};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Vec<u8>,
    pub(crate) permissions: Permissions,
    pub(crate) children: BTreeMap<Box<str>, Arc<Node>>,
    /// Differs after each change of the value, the permissions, or the names of the children.
    pub(crate) version: u64,
}

/// A tree of nodes. Copies share what has not changed since.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: Arc<Node>,
    /// The last version that a node got.
    version: u64,
    /// Nodes, by owner.
    owned: BTreeMap<DomainId, u32>,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            value: Vec::new(),
            permissions: Permissions::of(DomainId::CONTROL, None),
            children: BTreeMap::new(),
            version: 0,
        };
        let owned = BTreeMap::from([(DomainId::CONTROL, 1)]);
        Self { root: Arc::new(root), version: 0, owned }
    }
}

impl Tree {
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        let mut node = &*self.root;
        for segment in path.segments() {
            node = node.children.get(segment)?;
        }
        Some(node)
    }

    /// The version of a node; none if it does not exist.
    pub(crate) fn version(&self, path: &Path) -> Option<u64> {
        self.get(path).map(|node| node.version)
    }

    /// The node, or the nearest one above it that exists, and where that is.
    pub(crate) fn nearest(&self, path: &Path) -> (Path, &Node) {
        let (mut place, mut node) = (Path::root(), &*self.root);
        for segment in path.segments() {
            let Some(child) = node.children.get(segment) else { break };
            (place, node) = (place.join(segment), child);
        }
        (place, node)
    }

    /// Nodes that `domain` owns.
    pub(crate) fn owned(&self, domain: DomainId) -> u32 {
        self.owned.get(&domain).copied().unwrap_or_default()
    }

    /// Gives a node a value, or lets it keep the one it has. Missing nodes on the way are made;
    /// new ones get the permissions of what they are in, and `creator` as their owner.
    pub(crate) fn put(&mut self, path: &Path, value: Option<&[u8]>, creator: DomainId) {
        self.version += 1;
        let mut node = Arc::make_mut(&mut self.root);
        let mut created = false;
        for segment in path.segments() {
            created = !node.children.contains_key(segment);
            if created {
                node.version = self.version;
                *self.owned.entry(node.permissions.inherited(creator).owner).or_default() += 1;
            }
            let permissions = &node.permissions;
            let child = node.children.entry(segment.into()).or_insert_with(|| {
                Arc::new(Node {
                    value: Vec::new(),
                    permissions: permissions.inherited(creator),
                    children: BTreeMap::new(),
                    version: self.version,
                })
            });
            node = Arc::make_mut(child);
        }
        if let Some(value) = value {
            node.value = value.to_vec();
        }
        if value.is_some() || created {
            node.version = self.version;
        }
    }

    /// Sets the permissions of a node, if it exists.
    pub(crate) fn set_permissions(&mut self, path: &Path, permissions: Permissions) {
        if self.get(path).is_none() {
            return;
        }
        self.version += 1;
        let mut node = Arc::make_mut(&mut self.root);
        for segment in path.segments() {
            let Some(child) = node.children.get_mut(segment) else { return };
            node = Arc::make_mut(child);
        }
        disown(&mut self.owned, node.permissions.owner);
        *self.owned.entry(permissions.owner).or_default() += 1;
        node.permissions = permissions;
        node.version = self.version;
    }

    /// Takes a node out, with everything below it. The root stays.
    pub(crate) fn remove(&mut self, path: &Path) -> Option<Arc<Node>> {
        self.get(path)?;
        let parent = path.parent()?;
        let name = path.segments().last()?;
        self.version += 1;
        let mut node = Arc::make_mut(&mut self.root);
        for segment in parent.segments() {
            node = Arc::make_mut(node.children.get_mut(segment)?);
        }
        let removed = node.children.remove(name)?;
        node.version = self.version;
        removed.for_each(path, &mut |_, node| disown(&mut self.owned, node.permissions.owner));
        Some(removed)
    }

    /// Whether the count of every owner's nodes is what it should be.
    #[cfg(test)]
    pub(crate) fn counts_are_right(&self) -> bool {
        let mut counts = BTreeMap::<DomainId, u32>::new();
        self.root.for_each(&Path::root(), &mut |_, node| {
            *counts.entry(node.permissions.owner).or_default() += 1;
        });
        self.owned.iter().all(|(owner, count)| counts.get(owner).unwrap_or(&0) == count)
    }
}

impl Node {
    /// Calls `visit` for this node, which is at `path`, and for all below it.
    pub(crate) fn for_each(&self, path: &Path, visit: &mut dyn FnMut(&Path, &Self)) {
        visit(path, self);
        for (name, child) in &self.children {
            child.for_each(&path.join(name), visit);
        }
    }
}

fn disown(owned: &mut BTreeMap<DomainId, u32>, owner: DomainId) {
    if let Some(count) = owned.get_mut(&owner) {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::parse(text, DomainId(1)).unwrap()
    }

    #[test]
    fn copies_do_not_see_changes() {
        let mut tree = Tree::default();
        tree.put(&path("/a/b"), Some(b"1"), DomainId(0));
        let mut copy = tree.clone();
        tree.put(&path("/a/b"), Some(b"2"), DomainId(0));
        copy.remove(&path("/a"));
        assert_eq!(tree.get(&path("/a/b")).unwrap().value, b"2");
        assert!(copy.get(&path("/a/b")).is_none());
        assert_eq!((tree.owned(DomainId(0)), copy.owned(DomainId(0))), (3, 1));
    }

    #[test]
    fn versions_tell_changes() {
        let mut tree = Tree::default();
        tree.put(&path("/a/b"), Some(b"1"), DomainId(0));
        let versions = |tree: &Tree| ["/", "/a", "/a/b"].map(|text| tree.version(&path(text)));
        let before = versions(&tree);
        tree.put(&path("/a/b"), Some(b"1"), DomainId(0));
        let after = versions(&tree);
        assert_eq!(before[..2], after[..2]);
        assert_ne!(before[2], after[2]);
        tree.put(&path("/a/b"), None, DomainId(0));
        assert_eq!(versions(&tree), after);
        tree.put(&path("/a/c"), None, DomainId(0));
        assert_ne!(versions(&tree)[1], after[1]);
    }

    #[test]
    fn owners_are_counted() {
        let mut tree = Tree::default();
        tree.put(&path("x/y/z"), Some(b""), DomainId(1));
        assert_eq!(tree.owned(DomainId(1)), 6);
        tree.set_permissions(&path("x"), Permissions::of(DomainId(0), None));
        tree.set_permissions(&path("none"), Permissions::of(DomainId(1), None));
        assert_eq!((tree.owned(DomainId(0)), tree.owned(DomainId(1))), (2, 5));
        tree.remove(&path("x"));
        assert_eq!((tree.owned(DomainId(0)), tree.owned(DomainId(1))), (1, 3));
        assert!(tree.remove(&Path::root()).is_none());
        assert_eq!(tree.nearest(&path("q/r")).0, path("/local/domain/1"));
    }
}
