//! Who may do what with a node.

use super::path::Path;
use super::wire::StoreError;
use std::fmt;

/// A domain's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DomainId(pub(crate) u16);

impl DomainId {
    /// The domain that may do everything, in which the back ends are.
    pub(crate) const CONTROL: Self = Self(0);

    pub(crate) fn is_privileged(self) -> bool {
        self == Self::CONTROL
    }

    /// The domain's own node, at which its relative paths begin.
    pub(crate) fn path(self) -> Path {
        Path::root().join("local").join("domain").join(&self.0.to_string())
    }
}

/// What one domain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rights {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Rights {
    pub(crate) const ALL: Self = Self { read: true, write: true };
    pub(crate) const READ: Self = Self { read: true, write: false };
    pub(crate) const WRITE: Self = Self { read: false, write: true };
    pub(crate) const NONE: Self = Self { read: false, write: false };

    fn contain(self, needed: Self) -> bool {
        (self.read || !needed.read) && (self.write || !needed.write)
    }

    fn letter(self) -> char {
        match (self.read, self.write) {
            (false, false) => 'n',
            (true, false) => 'r',
            (false, true) => 'w',
            (true, true) => 'b',
        }
    }

    fn of_letter(letter: char) -> Option<Self> {
        let all = [Self::NONE, Self::READ, Self::WRITE, Self::ALL];
        all.into_iter().find(|rights| rights.letter() == letter)
    }
}

/// The owner of a node and what everybody else may do with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) owner: DomainId,
    /// The rights of who is not named.
    others: Rights,
    named: Vec<(DomainId, Rights)>,
}

impl Permissions {
    /// For the owner, and perhaps one more domain that may read.
    pub(crate) fn of(owner: DomainId, reader: Option<DomainId>) -> Self {
        let named = reader.map(|reader| (reader, Rights::READ)).into_iter().collect();
        Self { owner, others: Rights::NONE, named }
    }

    /// Reads what a request says.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, StoreError> {
        let entry = |word: &&str| {
            let mut rest = word.chars();
            let rights = rest.next().and_then(Rights::of_letter)?;
            let digits = rest.as_str();
            let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            decimal.then(|| digits.parse().ok()).flatten().map(|id| (DomainId(id), rights))
        };
        let entries: Option<Vec<_>> = words.iter().map(entry).collect();
        match entries.as_deref() {
            Some([(owner, others), named @ ..]) => {
                Ok(Self { owner: *owner, others: *others, named: named.to_vec() })
            }
            _ => Err(StoreError::Invalid),
        }
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        1 + self.named.len()
    }

    /// Whether `domain` has all rights of `needed`.
    pub(crate) fn permit(&self, domain: DomainId, needed: Rights) -> bool {
        if domain.is_privileged() || domain == self.owner {
            return true;
        }
        let named = self.named.iter().find(|(name, _)| *name == domain);
        named.map_or(self.others, |(_, rights)| *rights).contain(needed)
    }

    /// What a node that `creator` makes below one with these gets.
    pub(crate) fn inherited(&self, creator: DomainId) -> Self {
        let owner = if creator.is_privileged() { self.owner } else { creator };
        Self { owner, ..self.clone() }
    }
}

impl fmt::Display for Permissions {
    /// As an answer has it: each entry is ended by a NUL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = (self.owner, self.others);
        for (domain, rights) in std::iter::once(&owner).chain(&self.named) {
            write!(f, "{}{}\0", rights.letter(), domain.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_as_written() {
        let permissions = Permissions::parse(&["r3", "b4", "n5", "w6"]).unwrap();
        assert_eq!(permissions.to_string(), "r3\0b4\0n5\0w6\0");
        let rights = |domain| {
            let permit = |needed| permissions.permit(DomainId(domain), needed);
            (permit(Rights::READ), permit(Rights::WRITE))
        };
        assert_eq!([0, 3, 4].map(rights), [(true, true); 3]);
        assert_eq!([5, 6, 7].map(rights), [(false, false), (false, true), (true, false)]);
        assert_eq!(permissions.inherited(DomainId(9)).to_string(), "r9\0b4\0n5\0w6\0");
        assert_eq!(permissions.inherited(DomainId(0)), permissions);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [&[][..], &["x1"], &["r"], &["r-1"], &["r+1"], &["r65536"], &["", "r1"]] {
            assert_eq!(Permissions::parse(words), Err(StoreError::Invalid), "{words:?}");
        }
    }
}
