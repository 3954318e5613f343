//! What is fuzzed is what is shipped: fuzz crates, which are workspaces of their own, lock the same versions
//! as the project's workspace.

use std::collections::{BTreeMap, BTreeSet};

/// Versions by package, in the text of a `Cargo.lock`.
type Locked<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn locked(text: &str) -> Locked<'_> {
    let mut packages = Locked::new();
    let mut name = None;
    for line in text.lines() {
        let value = |key: &str| {
            line.strip_prefix(key)?.trim_start().strip_prefix("= \"")?.strip_suffix('"')
        };
        if let Some(value) = value("name") {
            name = Some(value);
        } else if let (Some(version), Some(name)) = (value("version"), name) {
            packages.entry(name).or_default().insert(version);
        }
    }
    packages
}

/// What the lock file `name` has otherwise than the workspace's.
pub(crate) fn complaints(workspace: &str, name: &str, text: &str) -> Vec<String> {
    let ours = locked(workspace);
    let mut complaints = Vec::new();
    for (package, versions) in locked(text) {
        let Some(ours) = ours.get(package) else { continue };
        if let Some(version) = versions.difference(ours).next() {
            complaints.push(format!(
                "{name}: {package} is {version}, which the workspace does not use (copy the \
                 workspace's Cargo.lock over it and run cargo update --workspace beside it)"
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(packages: &[(&str, &str)]) -> String {
        let entry = |(name, version): &(&str, &str)| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n\n")
        };
        format!("version = 4\n\n{}", packages.iter().map(entry).collect::<String>())
    }

    #[test]
    fn versions_are_the_workspaces() {
        let workspace = lock(&[("a", "1.0.0"), ("b", "1.2.0"), ("b", "2.0.1")]);
        let same = lock(&[("b", "2.0.1"), ("fuzzer", "0.4.0")]);
        assert!(complaints(&workspace, "f/Cargo.lock", &same).is_empty());
        let other = complaints(&workspace, "f/Cargo.lock", &lock(&[("a", "1.0.1")]));
        assert_eq!(other.len(), 1);
        assert!(other[0].starts_with("f/Cargo.lock: a is 1.0.1,"), "{other:?}");
    }
}
