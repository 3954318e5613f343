//! Kernel modules: which ones a guest needs, and the index files that `modprobe` reads.
//!
//! Debian's packages carry the modules but not `modules.dep`, which is made on installation. What a
//! module depends on and which devices it serves it says itself, in its `.modinfo` section, so the
//! indices for a chosen set of modules are made here.

use crate::GuestError;
use object::{Object, ObjectSection};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest module that is looked at, in bytes.
const MODULE_SIZE_LIMIT: u64 = 64 << 20;
/// How deep directories of modules may be nested.
const DEPTH_LIMIT: usize = 16;

/// What a module says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Names of the modules it cannot be loaded without.
    pub depends: Vec<String>,
    /// Patterns of device identities it serves, and other names it goes by.
    pub aliases: Vec<String>,
}

impl ModuleInfo {
    /// Reads the `.modinfo` section of a module in ELF format.
    ///
    /// # Errors
    ///
    /// A sentence that says why the bytes are not a kernel module.
    pub fn parse(module: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(module).map_err(|error| error.to_string())?;
        let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
        let data = section.data().map_err(|error| error.to_string())?;
        Ok(Self::from_modinfo(data))
    }

    /// Reads `key=value` strings, each ended by a NUL.
    fn from_modinfo(data: &[u8]) -> Self {
        let mut info = Self::default();
        for field in data.split(|&byte| byte == 0) {
            let Some((key, value)) =
                std::str::from_utf8(field).ok().and_then(|text| text.split_once('='))
            else {
                continue;
            };
            match key {
                "depends" => {
                    let names = value.split(',').filter(|name| !name.is_empty());
                    info.depends.extend(names.map(canonical));
                }
                "alias" if !value.contains(char::is_whitespace) => {
                    info.aliases.push(value.to_owned())
                }
                _ => {}
            }
        }
        info
    }
}

/// A module's name as the kernel has it: underscores, never dashes.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// A module file of a kernel package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Relative to `lib/modules/RELEASE`, without the suffix of a compression.
    name: String,
    path: PathBuf,
}

/// The modules below one `lib/modules/RELEASE` directory, by name.
#[derive(Debug)]
pub struct ModuleTree {
    modules: BTreeMap<String, Found>,
}

impl ModuleTree {
    /// Finds all modules below `directory`.
    ///
    /// # Errors
    ///
    /// [`GuestError::File`] if the directory cannot be read.
    pub fn scan(directory: &Path) -> Result<Self, GuestError> {
        let mut tree = Self { modules: BTreeMap::new() };
        tree.scan_below(directory, "", 0)?;
        Ok(tree)
    }

    fn scan_below(&mut self, path: &Path, prefix: &str, depth: usize) -> Result<(), GuestError> {
        if depth > DEPTH_LIMIT {
            return Ok(());
        }
        for entry in std::fs::read_dir(path).map_err(GuestError::file("read", path))? {
            let entry = entry.map_err(GuestError::file("read", path))?;
            let Ok(file_name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(GuestError::file("read", &entry.path()))?;
            if kind.is_dir() {
                self.scan_below(&entry.path(), &format!("{prefix}{file_name}/"), depth + 1)?;
            } else if kind.is_file()
                && let Some((stem, _)) = file_name.split_once(".ko")
            {
                let found = Found { name: format!("{prefix}{stem}.ko"), path: entry.path() };
                self.modules.insert(canonical(stem), found);
            }
        }
        Ok(())
    }

    /// Whether there is a module of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.modules.contains_key(&canonical(name))
    }

    /// Reads the named modules and all that they depend on. Names that the kernel does not have as
    /// a module are left out: they are built in, or absent.
    ///
    /// # Errors
    ///
    /// [`GuestError::File`] or [`GuestError::Initramfs`] if a module cannot be read, is no module,
    /// or depends on a module that is not there.
    pub fn select<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<ModuleSet, GuestError> {
        let mut set = ModuleSet { modules: BTreeMap::new() };
        let mut wanted: Vec<String> =
            names.into_iter().map(canonical).filter(|name| self.contains(name)).collect();
        while let Some(name) = wanted.pop() {
            if set.modules.contains_key(&name) {
                continue;
            }
            let found = self.modules.get(&name).ok_or_else(|| {
                GuestError::Initramfs(format!("the kernel package lacks the module {name}"))
            })?;
            let contents = read_module(&found.path)?;
            let info = ModuleInfo::parse(&contents).map_err(|reason| {
                GuestError::Initramfs(format!("{} is no kernel module: {reason}", found.name))
            })?;
            wanted.extend(info.depends.iter().cloned());
            set.modules.insert(name, Module { name: found.name.clone(), contents, info });
        }
        Ok(set)
    }
}

/// Reads a module, decompressed.
fn read_module(path: &Path) -> Result<Vec<u8>, GuestError> {
    let file = std::fs::File::open(path).map_err(GuestError::file("read", path))?;
    let reader: Box<dyn Read> = match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        Some("zst") => Box::new(
            zstd::stream::read::Decoder::new(file).map_err(GuestError::file("decompress", path))?,
        ),
        _ => Box::new(file),
    };
    let mut contents = Vec::new();
    reader
        .take(MODULE_SIZE_LIMIT + 1)
        .read_to_end(&mut contents)
        .map_err(GuestError::file("read", path))?;
    if contents.len() as u64 > MODULE_SIZE_LIMIT {
        return Err(GuestError::Initramfs(format!("{} is too large for a module", path.display())));
    }
    Ok(contents)
}

/// A module chosen for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path relative to `lib/modules/RELEASE`, ending in `.ko`.
    pub name: String,
    /// The module in ELF format, not compressed.
    pub contents: Vec<u8>,
    /// What it says about itself.
    pub info: ModuleInfo,
}

/// Modules closed under dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSet {
    /// By canonical name.
    modules: BTreeMap<String, Module>,
}

impl ModuleSet {
    /// The modules, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Module> {
        self.modules.values()
    }

    /// The text of `modules.dep`: of each module, all that must be loaded before it, the first to
    /// load named last.
    pub fn dependency_index(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            let mut order = Vec::new();
            let mut visited = BTreeSet::from([name.as_str()]);
            self.load_order(module, &mut visited, &mut order);
            let _ = write!(text, "{}:", module.name);
            for dependency in order.iter().rev() {
                let _ = write!(text, " {dependency}");
            }
            text.push('\n');
        }
        text
    }

    /// Appends what `module` needs to `order`, each after what it needs itself. `visited` ends
    /// cycles, which only a damaged package could have.
    fn load_order<'a>(
        &'a self,
        module: &'a Module,
        visited: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        for name in &module.info.depends {
            if let Some((name, dependency)) = self.modules.get_key_value(name)
                && visited.insert(name)
            {
                self.load_order(dependency, visited, order);
                order.push(&dependency.name);
            }
        }
    }

    /// The text of `modules.alias`: which module serves which device identities.
    pub fn alias_index(&self) -> String {
        let mut text = String::new();
        for (name, module) in &self.modules {
            for alias in &module.info.aliases {
                let _ = writeln!(text, "alias {alias} {name}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest ELF file with a `.modinfo` section.
    fn module(modinfo: &str) -> Vec<u8> {
        let strings = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        file[16..20].copy_from_slice(&[1, 0, 62, 0]); // ET_REL, EM_X86_64
        file[20] = 1;
        file[52] = 64; // e_ehsize
        file[58] = 64; // e_shentsize
        file[60] = 3; // e_shnum
        file[62] = 2; // e_shstrndx
        let modinfo_at = file.len() as u64;
        file.extend_from_slice(modinfo.as_bytes());
        let strings_at = file.len() as u64;
        file.extend_from_slice(strings);
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len() as u64;
        file[40..48].copy_from_slice(&sections_at.to_le_bytes());
        let section = |name: u32, kind: u32, offset: u64, size: usize| {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&offset.to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            header
        };
        file.extend(section(0, 0, 0, 0));
        file.extend(section(1, 1, modinfo_at, modinfo.len()));
        file.extend(section(10, 3, strings_at, strings.len()));
        file
    }

    fn tree(modules: &[(&str, &str)]) -> (tempfile::TempDir, ModuleTree) {
        let directory = tempfile::tempdir().unwrap();
        for (name, modinfo) in modules {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let contents = module(modinfo);
            let stored = match path.extension().unwrap().to_str().unwrap() {
                "zst" => zstd::encode_all(&contents[..], 1).unwrap(),
                _ => contents,
            };
            std::fs::write(path, stored).unwrap();
        }
        let tree = ModuleTree::scan(directory.path()).unwrap();
        (directory, tree)
    }

    const CHAIN: &[(&str, &str)] = &[
        ("kernel/net/front-end.ko", "license=GPL\0depends=ring,virtio-core\0alias=pci:v1af4*\0"),
        ("kernel/drivers/virtio_core.ko.zst", "depends=ring\0"),
        ("kernel/drivers/ring.ko", "depends=\0alias=ring-buffer\0alias=has space\0"),
        ("kernel/unrelated.ko", "depends=\0"),
    ];

    #[test]
    fn what_a_module_depends_on_comes_with_it() {
        let (_directory, tree) = tree(CHAIN);
        let set = tree.select(["front_end", "not_a_module"]).unwrap();
        let names: Vec<_> = set.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(
            names,
            ["kernel/net/front-end.ko", "kernel/drivers/ring.ko", "kernel/drivers/virtio_core.ko"]
        );
        let compressed = set.iter().find(|module| module.name.ends_with("virtio_core.ko")).unwrap();
        assert_eq!(compressed.contents, module("depends=ring\0"));
    }

    #[test]
    fn the_index_names_the_first_to_load_last() {
        let (_directory, tree) = tree(CHAIN);
        let set = tree.select(["front-end"]).unwrap();
        assert_eq!(
            set.dependency_index(),
            "kernel/net/front-end.ko: kernel/drivers/virtio_core.ko kernel/drivers/ring.ko\n\
             kernel/drivers/ring.ko:\n\
             kernel/drivers/virtio_core.ko: kernel/drivers/ring.ko\n"
        );
        assert_eq!(set.alias_index(), "alias pci:v1af4* front_end\nalias ring-buffer ring\n");
    }

    #[test]
    fn cycles_end_and_missing_modules_are_named() {
        let (_directory, cyclic) = tree(&[("a.ko", "depends=b\0"), ("b.ko", "depends=a\0")]);
        let set = cyclic.select(["a"]).unwrap();
        assert_eq!(set.dependency_index(), "a.ko: b.ko\nb.ko: a.ko\n");
        let (_directory, broken) = tree(&[("a.ko", "depends=gone\0")]);
        assert!(broken.select(["a"]).unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn files_that_are_no_modules_are_refused() {
        assert!(ModuleInfo::parse(b"").is_err());
        assert!(ModuleInfo::parse(b"not an ELF file at all, but long enough to be one?").is_err());
        let whole = module("depends=x\0");
        for length in 0..whole.len() {
            let _ = ModuleInfo::parse(&whole[..length]);
        }
        assert_eq!(ModuleInfo::parse(&whole).unwrap().depends, ["x"]);
    }
}
