//! Transactions.

use super::path::Path;
use super::permissions::{DomainId, Permissions};
use super::quota;
use super::tree::Tree;
use super::wire::StoreError;
use std::collections::BTreeSet;

/// What was done to a node.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// It was made, if it did not exist, and got this value, if any.
    Put(Option<Vec<u8>>),
    Remove,
    SetPermissions(Permissions),
}

impl Edit {
    pub(crate) fn apply(&self, tree: &mut Tree, path: &Path, domain: DomainId) {
        match self {
            Self::Put(value) => tree.put(path, value.as_deref(), domain),
            Self::Remove => {
                tree.remove(path);
            }
            Self::SetPermissions(permissions) => tree.set_permissions(path, permissions.clone()),
        }
    }
}

/// A transaction under way.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The tree as it was at the beginning.
    before: Tree,
    /// The tree as the transaction sees it.
    pub(crate) tree: Tree,
    /// Nodes whose state, or absence, it depends on.
    seen: BTreeSet<Path>,
    edits: Vec<(Path, Edit)>,
}

impl Transaction {
    pub(crate) fn new(tree: &Tree) -> Self {
        let (before, tree) = (tree.clone(), tree.clone());
        Self { before, tree, seen: BTreeSet::new(), edits: Vec::new() }
    }

    /// Notes that the transaction depends on a node.
    pub(crate) fn see(&mut self, path: &Path) -> Result<(), StoreError> {
        if self.seen.len() >= quota::NODES_OF_TRANSACTION && !self.seen.contains(path) {
            return Err(StoreError::NoSpace);
        }
        self.seen.insert(path.clone());
        Ok(())
    }

    /// Changes the tree as the transaction sees it.
    pub(crate) fn edit(
        &mut self,
        path: Path,
        edit: Edit,
        domain: DomainId,
    ) -> Result<(), StoreError> {
        if self.edits.len() >= quota::NODES_OF_TRANSACTION {
            return Err(StoreError::NoSpace);
        }
        // What is made below it changes the nearest node that exists.
        let nearest = self.tree.nearest(&path).0;
        self.see(&nearest)?;
        if matches!(edit, Edit::Remove)
            && let Some(parent) = path.parent()
        {
            self.see(&parent)?;
        }
        edit.apply(&mut self.tree, &path, domain);
        self.edits.push((path, edit));
        Ok(())
    }

    /// The changes, if `tree` has still the same versions of all nodes that matter.
    pub(crate) fn finish(self, tree: &Tree) -> Result<Vec<(Path, Edit)>, StoreError> {
        let same = |path: &Path| self.before.version(path) == tree.version(path);
        if self.seen.iter().all(same) { Ok(self.edits) } else { Err(StoreError::Again) }
    }
}
