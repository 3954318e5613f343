//! The same guests under QEMU.

use ambos_guest::{Flavour, Silent, ensure_default, exec};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `script` in a guest with devices that QEMU's `arguments` name; returns what the console showed.
pub(crate) fn run(flavour: Flavour, arguments: &[&str], script: &str) -> String {
    let guest = ensure_default(flavour, &Silent).unwrap();
    boot(flavour, &guest.initrd, arguments, &exec::kernel_parameter(script).unwrap())
}

/// Runs the kernel of `flavour` with an initramfs and parameters; returns what the console showed.
pub(crate) fn boot(
    flavour: Flavour,
    initrd: &Path,
    arguments: &[&str],
    parameters: &str,
) -> String {
    let guest = ensure_default(flavour, &Silent).unwrap();
    let output = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg,thread=single", "-m", "256", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio", "-kernel"])
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 {parameters}")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("qemu-system-x86_64 must be installed for this test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}
