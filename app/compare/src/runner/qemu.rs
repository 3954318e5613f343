//! The same guest under QEMU. What this monitor's console does for its own guests is done here: the
//! guest's output is taken out of the serial port's, and marks become windows.

use super::contender::QEMU;
use super::process::{Chunk, Process};
use super::{Accelerator, Errand, Laboratory, Listener, Outcome, Reader, Root, Window, follow};
use ambos_guest::exec::{self, ExecFilter, Nonce, WindowMark};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub(super) fn run(
    laboratory: &Laboratory,
    accelerator: Accelerator,
    errand: &Errand,
    interrupt: &AtomicBool,
    listener: Listener<'_>,
) -> Outcome {
    let failed = |failure: String| Outcome { failure: Some(failure), ..Outcome::default() };
    if matches!(errand.root, Root::Probe(_)) {
        return failed("the probe is not run in QEMU".to_owned());
    }
    let nonce = Nonce::random();
    let parameter = match exec::kernel_parameter(&errand.command) {
        Ok(parameter) => parameter,
        Err(error) => return failed(error.to_string()),
    };
    let mut command = Command::new(QEMU);
    match accelerator {
        Accelerator::Tcg => command.args(["-accel", "tcg,thread=single", "-cpu", "max"]),
        Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
    };
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-serial", "stdio", "-m", &format!("{}K", errand.memory / 1024)]);
    command.args(["-smp", &errand.cpus.to_string()]);
    command.arg("-kernel").arg(&laboratory.guest.kernel);
    command.arg("-initrd").arg(laboratory.initrd(&errand.root));
    command.arg("-append").arg(format!(
        "console=ttyS0 panic=-1 no_timer_check {} {parameter} {}",
        nonce.kernel_parameter(),
        laboratory.append(errand)
    ));
    if errand.disk {
        let drive = format!("file={},format=raw,if=virtio", laboratory.disk_file().display());
        command.args(["-drive", &drive]);
    }
    if errand.network {
        let forward = errand.forward.map_or_else(String::new, |forward| {
            format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest)
        });
        command.args(["-netdev", &format!("user,id=n{forward}")]);
        command.args(["-device", "virtio-net-pci,netdev=n,romfile="]);
    }
    let process = match Process::start(command) {
        Ok(process) => process,
        Err(error) => return failed(format!("{QEMU}: {error}")),
    };
    let mut reader = Serial::new(&nonce);
    let (mut outcome, _) = follow(process, &mut reader, errand.limit, interrupt, listener);
    outcome.windows = reader.closed;
    outcome
}

/// What comes out of the serial port.
struct Serial {
    filter: ExecFilter,
    open: BTreeMap<String, (Instant, f64)>,
    closed: Vec<Window>,
}

impl Serial {
    fn new(nonce: &Nonce) -> Self {
        Self { filter: ExecFilter::new(nonce), open: BTreeMap::new(), closed: Vec::new() }
    }
}

impl Reader for Serial {
    fn feed(&mut self, chunk: &Chunk, process: &Process) -> Vec<u8> {
        let (mut output, mut log) = (Vec::new(), Vec::new());
        self.filter.feed(&chunk.bytes, &mut output, &mut log);
        for mark in self.filter.take_marks() {
            let cpu = process.processor_seconds();
            match mark {
                WindowMark::Open(name) => {
                    self.open.insert(name, (chunk.at, cpu));
                }
                WindowMark::Close(name) => {
                    let Some((start, cpu_before)) = self.open.remove(&name) else { continue };
                    self.closed.push(Window {
                        name,
                        seconds: (chunk.at - start).as_secs_f64(),
                        cpu_seconds: (cpu - cpu_before).max(0.0),
                        ..Window::default()
                    });
                }
            }
        }
        output
    }
}
