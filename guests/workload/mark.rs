//! Marks on the console that the monitor understands: see the protocol of `ambos-guest`.

use crate::output::Buffer;
use crate::sys;

/// A window begins.
pub(crate) fn open(name: &str) {
    mark("open=", name);
}

/// A window ends.
pub(crate) fn close(name: &str) {
    mark("close=", name);
}

fn mark(action: &str, name: &str) {
    let mut command_line = [0; 4096];
    let nonce = nonce(&mut command_line).unwrap_or("");
    let mut buffer = Buffer::default();
    for part in ["\x1b]ambos;", nonce, ";", action, name, "\x07"] {
        buffer.add(part);
    }
    if !nonce.is_empty() {
        buffer.write();
    }
}

/// What the kernel's command line says of the nonce.
fn nonce(buffer: &mut [u8; 4096]) -> Option<&str> {
    let path = sys::CString::new("/proc/cmdline");
    let file = sys::call3(sys::OPEN, path.address(), 0, 0).ok()?;
    let length = sys::call3(sys::READ, file, buffer.as_mut_ptr() as usize, buffer.len());
    let _ = sys::call3(sys::CLOSE, file, 0, 0);
    let text = core::str::from_utf8(buffer.get(..length.ok()?)?).ok()?;
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix("ambos.nonce="))
}
