//! The arguments that describe what else of the host a guest reaches: directories and sockets.

use crate::failure::Failure;
use ambos_machine::SharedDirectory;
use ambos_share::Share;
use ambos_vsock::UnixSockets;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A directory of the host that the guest mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directory {
    path: PathBuf,
    tag: String,
    read_only: bool,
}

/// Where programs of the host reach the guest's sockets, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sockets {
    path: PathBuf,
    cid: u64,
}

/// The address that a guest has unless another one is asked for: the first that means no one else.
const FIRST_CID: u64 = 3;
/// The address that means anybody.
const ANY_CID: u64 = 0xffff_ffff;

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, read_only) = match text.strip_suffix(",readonly") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (path, tag) = text
            .rsplit_once(':')
            .filter(|(path, _)| !path.is_empty())
            .ok_or_else(|| format!("\"{text}\" is not DIRECTORY:TAG"))?;
        if let Some((_, option)) = tag.split_once(',') {
            return Err(format!("there is no option \"{option}\" (readonly)"));
        }
        if tag.is_empty() || tag.len() > SharedDirectory::TAG_MAX || tag.contains('\0') {
            return Err(format!("a tag has 1 to {} bytes", SharedDirectory::TAG_MAX));
        }
        Ok(Self { path: path.into(), tag: tag.to_owned(), read_only })
    }
}

impl Directory {
    /// The name by which the guest mounts it.
    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    pub(super) fn open(&self) -> Result<SharedDirectory, Failure> {
        let share = Share::new(&self.path, self.read_only)
            .map_err(|error| Failure::usage_because("--share cannot be used", error))?;
        Ok(SharedDirectory { share, tag: self.tag.clone() })
    }
}

impl FromStr for Sockets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, cid) = match text.rsplit_once(",cid=") {
            Some((path, cid)) => {
                let number = cid.parse().ok().filter(|cid| (FIRST_CID..ANY_CID).contains(cid));
                (path, number.ok_or_else(|| format!("cid is {FIRST_CID} to {}", ANY_CID - 1))?)
            }
            None => (text, FIRST_CID),
        };
        if path.is_empty() {
            return Err("the path of the socket is missing".to_owned());
        }
        Ok(Self { path: path.into(), cid })
    }
}

impl Sockets {
    pub(super) fn open(&self) -> Result<Arc<UnixSockets>, Failure> {
        UnixSockets::new(&self.path, self.cid)
            .map(Arc::new)
            .map_err(|error| Failure::usage_because("--vsock cannot be used", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_have_tags() {
        let parse = |text: &str| text.parse::<Directory>();
        let directory = |path: &str, tag: &str, read_only| Directory {
            path: path.into(),
            tag: tag.to_owned(),
            read_only,
        };
        assert_eq!(parse("/srv:files"), Ok(directory("/srv", "files", false)));
        assert_eq!(parse("a:b:c,readonly"), Ok(directory("a:b", "c", true)));
        for nonsense in ["", "/srv", ":tag", "/srv:", "/srv:t,rw", "/srv:t,readonly,readonly"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
        assert!(parse(&format!("/srv:{}", "t".repeat(36))).is_ok());
        assert!(parse(&format!("/srv:{}", "t".repeat(37))).is_err());
    }

    #[test]
    fn sockets_have_a_path_and_an_address() {
        let parse = |text: &str| text.parse::<Sockets>();
        let sockets = |path: &str, cid| Sockets { path: path.into(), cid };
        assert_eq!(parse("/run/s"), Ok(sockets("/run/s", 3)));
        assert_eq!(parse("s,cid=42"), Ok(sockets("s", 42)));
        for nonsense in ["", ",cid=3", "s,cid=2", "s,cid=x", "s,cid=4294967295"] {
            assert!(parse(nonsense).is_err(), "{nonsense}");
        }
    }
}
