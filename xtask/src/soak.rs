//! `cargo xtask soak`: the tests of disks and networks at a length that is too long for every change.

use std::process::Command;

/// How long.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Mebibytes of data that guests write, read and check
    #[arg(long, default_value_t = 1024)]
    disk_mib: u64,
    /// How often the monitor is killed while its guest writes
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Seconds for which readers and writers are at two disks at once, in each technique
    #[arg(long, default_value_t = 300)]
    hot_seconds: u64,
    /// Mebibytes of data that guests download and upload
    #[arg(long, default_value_t = 256)]
    net_mib: u64,
}

/// Runs the tests.
pub(crate) fn run(arguments: &Arguments) -> Result<(), String> {
    let status = Command::new("cargo")
        .args(["test", "--release", "--package", "ambos", "--test", "disks", "--test", "network"])
        .env("AMBOS_TEST_DISK_MIB", arguments.disk_mib.to_string())
        .env("AMBOS_TEST_KILLS", arguments.kills.to_string())
        .env("AMBOS_TEST_HOT_SECONDS", arguments.hot_seconds.to_string())
        .env("AMBOS_TEST_NET_MIB", arguments.net_mib.to_string())
        .status()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err("a test failed".to_owned()) }
}
