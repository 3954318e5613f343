//! The nodes that a guest finds in the store, as the toolstack makes them.

use crate::events::GuestPort;
use crate::xenstore::{DomainId, Path, Permissions, Store};

/// What the store says of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    /// Its number, not zero.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// vCPUs.
    pub cpus: u32,
    /// KiB of memory that it has.
    pub memory_kib: u64,
    /// When it was started, in seconds since 1970.
    pub start_time: u64,
}

/// A page and a port through which a guest reaches a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) frame: u64,
    pub(super) port: GuestPort,
}

/// Nodes under `control` that a guest may write to.
const CONTROL_NODES: [&str; 5] =
    ["shutdown", "feature-poweroff", "feature-reboot", "feature-suspend", "sysrq"];
/// Nodes that belong to a guest, for whatever it likes to say.
const OWN_NODES: [&str; 5] = ["data", "drivers", "feature", "attr", "error"];

/// Where a guest's console is in the control domain.
pub(super) fn console_back(guest: DomainId) -> Path {
    let consoles = DomainId::CONTROL.path().join("backend").join("console");
    consoles.join(&guest.0.to_string()).join("0")
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Makes the nodes of the control domain and of the guest.
pub(super) fn create(store: &mut Store, info: &DomainInfo, xenstore: Service, console: Service) {
    let guest = DomainId(info.id);
    let path = |text: &str| {
        text.split('/').fold(
            Path::root(),
            |path, name| {
                if name.is_empty() { path } else { path.join(name) }
            },
        )
    };
    let closed = Permissions::of(DomainId::CONTROL, None);
    let readable = Permissions::of(DomainId::CONTROL, Some(guest));
    let own = Permissions::of(guest, None);

    store.write_for(&path("/tool/xenstored"), "", closed.clone());
    let control = "/local/domain/0";
    for (name, value) in [("domid", "0"), ("name", "Domain-0"), ("backend", "")] {
        store.write_for(&path(&format!("{control}/{name}")), value, closed.clone());
    }

    let vm = path(&format!("/vm/{}", uuid_text(&info.uuid)));
    store.write_for(&vm, "", readable.clone());
    for (name, value) in [
        ("name", info.name.as_str()),
        ("uuid", &uuid_text(&info.uuid)),
        ("start_time", &info.start_time.to_string()),
    ] {
        store.write(&vm.join(name), value);
    }
    store.write(&vm.join("image").join("ostype"), "linux");

    let home = guest.path();
    store.write_for(&home, "", readable.clone());
    store.write(&home.join("vm"), vm.as_str());
    store.write(&home.join("name"), &info.name);
    store.write(&home.join("domid"), &info.id.to_string());
    for cpu in 0..info.cpus {
        let cpu = home.join("cpu").join(&cpu.to_string());
        store.write(&cpu.join("availability"), "online");
    }
    let memory = home.join("memory");
    for (name, value) in
        [("static-max", info.memory_kib), ("target", info.memory_kib), ("videoram", 0)]
    {
        store.write(&memory.join(name), &value.to_string());
    }
    store.write(&home.join("device"), "");
    store.write_for(&home.join("device/suspend/event-channel"), "", own.clone());
    for name in CONTROL_NODES {
        store.write_for(&home.join("control").join(name), "", own.clone());
    }
    let features = ["multiprocessor-suspend", "xs_reset_watches"];
    for name in features {
        let feature = home.join("control").join(&format!("platform-feature-{name}"));
        store.write(&feature, "1");
    }
    for name in OWN_NODES {
        store.write_for(&home.join(name), "", own.clone());
    }
    let node = home.join("store");
    store.write(&node.join("port"), &xenstore.port.0.to_string());
    store.write(&node.join("ring-ref"), &xenstore.frame.to_string());

    let (front, back) = (home.join("console"), console_back(guest));
    store.write_for(&back, "", readable);
    for (name, value) in [
        ("frontend", front.as_str()),
        ("frontend-id", &info.id.to_string()),
        ("online", "1"),
        ("state", "1"),
        ("protocol", "vt100"),
    ] {
        store.write(&back.join(name), value);
    }
    for (name, value) in [
        ("backend", back.as_str()),
        ("backend-id", "0"),
        ("limit", "1048576"),
        ("type", "xenconsoled"),
        ("output", "pty"),
        ("port", &console.port.0.to_string()),
        ("ring-ref", &console.frame.to_string()),
    ] {
        store.write(&front.join(name), value);
    }
}
