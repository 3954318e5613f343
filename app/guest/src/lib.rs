//! Gets guests ready to boot: a distribution's stock kernel, and an initramfs of our own around
//! the same distribution's busybox.
//!
//! - [`pull`] fetches the packages with the host's own package manager ([`apt`]), unpacks them
//!   ([`deb`]), writes the initramfs ([`initramfs`]) and stores the result in the [`Cache`].
//! - [`packages::build`] makes an archive of any packages, for guests that are to have more.
//! - [`ensure_default`] is what `ambos run` without arguments needs: a guest, pulled at most once.
//! - [`exec`] is the small protocol between the monitor and the guest's `/init` by which
//!   `ambos run --exec` hands over a command and gets its output and exit status back.
//!
//! This crate knows files and packages only. It neither reads kernels nor runs machines, and it
//! holds no address of any package registry: where packages come from is the host's configuration.

pub mod apt;
mod cache;
pub mod cpio;
pub mod deb;
mod error;
pub mod exec;
pub mod initramfs;
pub mod modules;
pub mod packages;
mod progress;
mod pull;

pub use cache::{Cache, Flavour, GuestImage};
pub use error::GuestError;
pub use progress::{Progress, Silent, TerminalProgress};
pub use pull::{PullOptions, Refresh, ensure_default, pull};
