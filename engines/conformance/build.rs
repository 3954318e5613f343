//! Assembles the guest programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are loaded; `PROGRAM` in `board.h`.
const PROGRAM: &str = "0x8000";

fn main() {
    let guests = guests();
    println!("cargo::rerun-if-changed={}", guests.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut names = Vec::new();
    for entry in fs::read_dir(&guests).expect("the guests folder can be read") {
        let path = entry.expect("the guests folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "S") {
            let name = path.file_stem().expect("it has an extension").to_string_lossy();
            names.push(name.into_owned());
        }
    }
    names.sort();
    let mut table = String::from("&[");
    for name in &names {
        let object = out.join(format!("{name}.o"));
        let image = out.join(format!("{name}.elf"));
        let binary = out.join(format!("{name}.bin"));
        let source = guests.join(format!("{name}.S"));
        run(Command::new("gcc")
            .args(["-c", "-o"])
            .arg(&object)
            .arg("-I")
            .arg(guests.join("include"))
            .arg(&source));
        run(Command::new("ld")
            .args([
                "-n",
                "-static",
                "-nostdlib",
                "-e",
                "start",
                "--omagic",
                "-Ttext",
                PROGRAM,
                "-o",
            ])
            .arg(&image)
            .arg(&object));
        run(Command::new("objcopy")
            .args(["-O", "binary", "--set-section-flags", ".bss=alloc,load,contents"])
            .arg(&image)
            .arg(&binary));
        table.push_str(&format!("({name:?}, include_bytes!({:?})),", binary.display().to_string()));
    }
    table.push(']');
    fs::write(out.join("programs.rs"), table).expect("the output folder can be written");
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {status:?} (the guest programs need gcc and binutils)"
    );
}

/// The folder of the guest programs: asked for now, since this program may be kept from a folder that was moved.
fn guests() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    Path::new(&package).join("../../guests")
}
