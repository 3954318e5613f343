//! `xen_version` (`public/version.h`), and what is answered.

/// Major and minor number, packed.
pub const VERSION: u64 = 0;
/// The rest of the version, as text.
pub const EXTRAVERSION: u64 = 1;
/// How Xen was built.
pub const COMPILE_INFO: u64 = 2;
/// Kinds of guests that run.
pub const CAPABILITIES: u64 = 3;
/// The change set.
pub const CHANGESET: u64 = 4;
/// Where Xen's part of the address space begins.
pub const PLATFORM_PARAMETERS: u64 = 5;
/// Feature bits.
pub const GET_FEATURES: u64 = 6;
/// Page size.
pub const PAGESIZE: u64 = 7;
/// The domain's UUID.
pub const GUEST_HANDLE: u64 = 8;
/// Xen's command line.
pub const COMMANDLINE: u64 = 9;
/// The build's identifier.
pub const BUILD_ID: u64 = 10;

/// The version whose behaviour is followed.
pub const MAJOR: u16 = 4;
/// Its minor number.
pub const MINOR: u16 = 17;
/// Kinds of guests.
pub const CAPABILITIES_TEXT: &str = "xen-3.0-x86_64 ";
/// What a PV guest's kernel names itself compatible with.
pub const START_MAGIC: &str = "xen-3.0-x86_64";
