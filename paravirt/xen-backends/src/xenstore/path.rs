//! Names of nodes.

use super::permissions::DomainId;
use super::wire::StoreError;
use std::fmt;

/// Most bytes of a path that begins at the root.
const ABSOLUTE_MAX: usize = 3072;
/// Most bytes of one that begins at the domain's own node.
const RELATIVE_MAX: usize = 2048;

/// The absolute path of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Path(Box<str>);

impl Path {
    /// What `domain` calls `text`.
    pub(crate) fn parse(text: &str, domain: DomainId) -> Result<Self, StoreError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
        let limit = if text.starts_with('/') { ABSOLUTE_MAX } else { RELATIVE_MAX };
        let well_formed = !text.is_empty()
            && text.len() <= limit
            && text.bytes().all(allowed)
            && !text.contains("//")
            && (text == "/" || !text.ends_with('/'))
            && !text.starts_with('@');
        match well_formed {
            false => Err(StoreError::Invalid),
            true if text.starts_with('/') => Ok(Self(text.into())),
            true => Ok(domain.path().join(text)),
        }
    }

    /// The root of the tree.
    pub(crate) fn root() -> Self {
        Self("/".into())
    }

    /// A path below this one. `name` is ours, or comes from a path.
    pub(crate) fn join(&self, name: &str) -> Self {
        let base = if self.is_root() { "" } else { &self.0 };
        Self(format!("{base}/{name}").into())
    }

    pub(crate) fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The names on the way from the root.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// The path of the node that this one is in; none of the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        match self.0.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => Some(Self(parent.into())),
            _ => Some(Self::root()),
        }
    }

    /// Whether this is `other` or below it.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .0
                .strip_prefix(&*other.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// What a domain calls this if it names it from its own node; as it is, if it is elsewhere.
    pub(crate) fn relative_to(&self, domain: DomainId) -> &str {
        let rest = self.0.strip_prefix(&*domain.path().0);
        rest.and_then(|rest| rest.strip_prefix('/')).unwrap_or(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: DomainId = DomainId(7);

    fn parse(text: &str) -> Result<String, StoreError> {
        Path::parse(text, DOMAIN).map(|path| path.to_string())
    }

    #[test]
    fn paths_may_be_relative() {
        assert_eq!(parse("/"), Ok("/".to_owned()));
        assert_eq!(parse("/a/b-c_D@9"), Ok("/a/b-c_D@9".to_owned()));
        assert_eq!(parse("device/vbd"), Ok("/local/domain/7/device/vbd".to_owned()));
        let path = Path::parse("device", DOMAIN).unwrap();
        assert_eq!(path.relative_to(DOMAIN), "device");
        assert_eq!(path.relative_to(DomainId(70)), "/local/domain/7/device");
    }

    #[test]
    fn nonsense_is_refused() {
        let long = ["/", &"a".repeat(3072)].concat();
        let long_relative = "a".repeat(2049);
        for text in ["", "//", "/a/", "a//b", "/a b", "/ä", "@x", "/a:b", &long, &long_relative] {
            assert_eq!(parse(text), Err(StoreError::Invalid), "{text}");
        }
        assert!(parse(&long[..3072]).is_ok() && parse(&long_relative[1..]).is_ok());
    }

    #[test]
    fn what_lies_within() {
        let path = |text| Path::parse(text, DOMAIN).unwrap();
        assert!(path("/a/b").is_within(&path("/a")) && path("/a").is_within(&path("/a")));
        assert!(!path("/ab").is_within(&path("/a")) && !path("/a").is_within(&path("/a/b")));
        assert!(path("/a").is_within(&Path::root()));
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(Path::root()));
        assert_eq!(Path::root().parent(), None);
        assert_eq!(Path::root().join("a"), path("/a"));
    }
}
