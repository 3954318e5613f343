//! Builds the programs that run inside guests, with the compiler that builds everything else.
//!
//! They need no target but the host's own, and its linker: they are static and use no library but the
//! core of the language.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs: their names and further options of the compiler.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("workload", &[]),
    // A kernel: loaded at one MiB, entered as its notes say; interrupts use the stack of what they
    // interrupt.
    (
        "probe",
        &[
            "no-redzone=yes",
            "link-arg=-Wl,--image-base=0x100000",
            "link-arg=-Wl,-e,xen_entry",
            "link-arg=-Wl,-z,norelro",
            "link-arg=-Wl,--no-eh-frame-hdr",
        ],
    ),
];

fn main() {
    let guests = guests();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={}", guests.join("shared").display());
    for (name, options) in PROGRAMS {
        let folder = guests.join(name);
        println!("cargo::rerun-if-changed={}", folder.display());
        let mut command = Command::new(env::var_os("RUSTC").expect("cargo sets RUSTC"));
        command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name"]);
        command.arg(format!("ambos_{name}"));
        command.args(["-D", "warnings", "-D", "unsafe_code"]);
        for option in [
            "opt-level=2",
            "panic=abort",
            "relocation-model=static",
            "target-cpu=x86-64",
            "strip=symbols",
            "link-arg=-nostdlib",
            "link-arg=-nostartfiles",
            "link-arg=-static",
            "link-arg=-Wl,--build-id=none",
        ] {
            command.args(["-C", option]);
        }
        for option in *options {
            command.args(["-C", option]);
        }
        command.arg("-o").arg(out.join(name)).arg(folder.join("main.rs"));
        // The flags of the host's build are for the host.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        let status = command.status();
        assert!(
            status.as_ref().is_ok_and(std::process::ExitStatus::success),
            "{command:?}: {status:?}"
        );
    }
}

/// The folder of the guest programs: asked for now, since this program may be kept from a folder that was moved.
fn guests() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&package).join("../../guests")
}
