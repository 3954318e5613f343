//! `cargo xtask lints`: rules of the source that no compiler knows.
//!
//! - Every crate takes the workspace's lints, which deny unsafe code where none is expected and want
//!   a safety comment at each unsafe block; none switches them off.
//! - Where unsafe code is expected, the reason is said. All such places are listed.
//! - Fuzz crates lock the versions that the workspace does.
//! - Nothing is left for later, and no file holds more than one can keep in mind.

use crate::{locks, workspace};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Most lines that a source file may have.
const LINES: usize = 900;
/// Words by which something is left for later. Split, so that this file may be checked too.
const LEFT_FOR_LATER: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
/// Macros that do the same.
const UNFINISHED: &[&str] = &[concat!("todo", "!("), concat!("unimplemented", "!(")];

/// Checks all files of the project.
pub(crate) fn run() -> Result<(), String> {
    let root = workspace::root();
    let mut findings = Findings::default();
    let lock = read(&root.join("Cargo.lock"))?;
    for path in workspace::files(root)? {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let is_manifest = name.ends_with("Cargo.toml");
        let is_source = name.ends_with(".rs");
        if name.ends_with("/Cargo.lock") {
            findings.complaints.extend(locks::complaints(&lock, &name, &read(&path)?));
        }
        if !is_manifest && !is_source && !name.ends_with(".md") && !name.ends_with(".sh") {
            continue;
        }
        let text = read(&path)?;
        findings.leftovers(&name, &text);
        if is_source {
            findings.source(&name, &text);
        } else if is_manifest {
            findings.manifest(&name, &text);
        }
    }
    print!("{}", findings.list_of_unsafe_code());
    if findings.complaints.is_empty() { Ok(()) } else { Err(findings.complaints.join("\n")) }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[derive(Debug, Default)]
struct Findings {
    complaints: Vec<String>,
    /// How often unsafe code is expected, by file and reason.
    expected: BTreeMap<(String, String), usize>,
}

impl Findings {
    /// Words by which something is left for later.
    fn leftovers(&mut self, name: &str, text: &str) {
        for (number, line) in numbered(text) {
            if let Some(word) =
                LEFT_FOR_LATER.iter().chain(UNFINISHED).find(|&&word| line.contains(word))
            {
                self.complaints.push(format!("{name}:{number}: {word} is left for later"));
            }
        }
    }

    /// A source file's length and its unsafe code.
    fn source(&mut self, name: &str, text: &str) {
        let lines = text.lines().count();
        if lines > LINES {
            self.complaints.push(format!("{name}: {lines} lines, of {LINES} at most"));
        }
        let mut rest = text;
        while let Some(at) = rest.find("(unsafe_code") {
            let before = &rest[..at];
            let number = text[..text.len() - rest.len() + at].lines().count();
            rest = &rest[at + 1..];
            // A reason that is a text may contain parentheses; no reason here does.
            let attribute = &rest[..rest.find(")]").unwrap_or(rest.len())];
            if before.ends_with("allow") || before.ends_with("warn") {
                let complaint = "unsafe code is allowed; expect it, with a reason";
                self.complaints.push(format!("{name}:{number}: {complaint}"));
            } else if before.ends_with("expect") {
                match attribute.split_once("reason = \"").and_then(|(_, text)| text.split_once('"'))
                {
                    Some((reason, _)) => {
                        *self.expected.entry((name.to_owned(), reason.to_owned())).or_default() +=
                            1;
                    }
                    None => {
                        let complaint = "unsafe code is expected without a reason";
                        self.complaints.push(format!("{name}:{number}: {complaint}"));
                    }
                }
            }
        }
        if text.contains(concat!("allow(clippy::", "undocumented_unsafe_blocks")) {
            self.complaints.push(format!("{name}: safety comments are switched off"));
        }
    }

    /// A crate's manifest must take the lints of the workspace.
    fn manifest(&mut self, name: &str, text: &str) {
        let has = |line: &str| text.lines().any(|other| other.trim() == line);
        if has("[package]") && !has("[workspace]") && !text.contains("[lints]\nworkspace = true") {
            self.complaints.push(format!("{name}: the crate does not take the workspace's lints"));
        }
    }

    fn list_of_unsafe_code(&self) -> String {
        let mut text = String::from("Unsafe code:\n");
        for ((name, reason), count) in &self.expected {
            text.push_str(&format!("  {count:3} {name}: {reason}\n"));
        }
        text
    }
}

/// Lines with their numbers, from one.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Findings {
        let mut findings = Findings::default();
        findings.leftovers("a.rs", text);
        findings.source("a.rs", text);
        findings
    }

    #[test]
    fn what_is_left_for_later_is_found() {
        let text = format!("fn a() {{}}\n// {}: more\n", LEFT_FOR_LATER[0]);
        assert_eq!(source(&text).complaints.len(), 1);
        assert!(source(&text).complaints[0].starts_with("a.rs:2:"));
        assert_eq!(source(&format!("{})", UNFINISHED[0])).complaints.len(), 1);
        assert!(source("fn todos() {}\n").complaints.is_empty());
    }

    #[test]
    fn long_files_are_found() {
        assert!(source(&"\n".repeat(LINES)).complaints.is_empty());
        assert_eq!(source(&"\n".repeat(LINES + 1)).complaints.len(), 1);
    }

    #[test]
    fn unsafe_code_has_a_reason() {
        let attribute =
            |word: &str, reason: &str| format!("\n#[{word}(unsafe{}{reason})]\n", "_code");
        let good = attribute("expect", ", reason = \"because\"");
        let findings = source(&good.repeat(2));
        assert!(findings.complaints.is_empty());
        let list = findings.list_of_unsafe_code();
        assert_eq!(list, "Unsafe code:\n    2 a.rs: because\n");
        assert_eq!(source(&attribute("expect", "")).complaints.len(), 1);
        assert_eq!(source(&attribute("allow", ", reason = \"x\"")).complaints.len(), 1);
        assert!(source(&attribute("forbid", "")).complaints.is_empty());
        let wrapped = attribute("expect", ",\n    reason = \"because\"\n");
        assert!(source(&wrapped).complaints.is_empty());
    }

    #[test]
    fn crates_take_the_lints_of_the_workspace() {
        let mut findings = Findings::default();
        findings.manifest("Cargo.toml", "[workspace]\nmembers = []\n");
        findings.manifest("a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n");
        assert!(findings.complaints.is_empty());
        findings.manifest("b/Cargo.toml", "[package]\nname = \"b\"\n");
        assert_eq!(findings.complaints.len(), 1);
    }
}
