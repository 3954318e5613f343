//! A TAP interface of the host.
//!
//! # Copies
//!
//! Each frame is copied once in either direction, between guest memory and a buffer that the kernel
//! copies to or from: where a received frame goes is known only when its length is, and a frame that
//! is sent may be in more pieces than one system call takes.

use crate::offload::{Accepts, HEADER_LENGTH, Offload};
use crate::segments::{Received, Segments};
use crate::{ETHERNET_HEADER, FRAME_MAX, Full, NetBackend, NetPort, Slice};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use thiserror::Error;

/// What makes interfaces.
const DEVICE: &str = "/dev/net/tun";
/// Where the kernel tells an interface's MTU.
const CLASS: &str = "/sys/class/net";
/// The MTU of an interface that does not tell.
const MTU: u16 = 1500;

/// Tokens of the thread's events.
const WAKER: Token = Token(0);
const INTERFACE: Token = Token(1);

/// The kernel's interface (`linux/if_tun.h`).
mod kernel {
    use crate::offload::Accepts;
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;

    /// An offload and its flag.
    const OFFLOADS: [(Accepts, libc::c_uint); 5] = [
        (Accepts::CHECKSUM, libc::TUN_F_CSUM),
        (Accepts::TCP_V4, libc::TUN_F_TSO4),
        (Accepts::TCP_V6, libc::TUN_F_TSO6),
        (Accepts::ECN, libc::TUN_F_TSO_ECN),
        // Either version.
        (Accepts::UDP, 0x20 | 0x40),
    ];

    /// Makes `file` the interface `name`: Ethernet frames, each with a virtio header.
    pub(super) fn attach(file: &File, name: &str) -> io::Result<()> {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let length = super::HEADER_LENGTH as libc::c_int;
        #[expect(unsafe_code, reason = "the kernel offers this only as ioctl")]
        // SAFETY: an `ifreq` is plain data, for which zeroes are valid, and lives as long as the
        // calls that read it; the other call reads an integer that lives as long.
        let results = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            // The last byte stays zero.
            let room = request.ifr_name.len() - 1;
            for (byte, character) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
                *byte = character as libc::c_char;
            }
            request.ifr_ifru.ifru_flags = flags as libc::c_short;
            let first = libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request);
            if first < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const length)
        };
        if results < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Says which frames may come.
    pub(super) fn accept(file: &File, accepts: Accepts) -> io::Result<()> {
        let flags = OFFLOADS.into_iter().filter(|(offload, _)| accepts.contains(*offload));
        let flags = flags.fold(0, |all, (_, flag)| all | flag);
        #[expect(unsafe_code, reason = "the kernel offers this only as ioctl")]
        // SAFETY: the argument is an integer; nothing of ours is read or written.
        let result = unsafe {
            libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags))
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// The host has no such interfaces, or does not let this user open them.
    #[error("cannot open {DEVICE}")]
    Open(#[source] io::Error),
    /// The interface is not there.
    #[error("there is no interface {name}; `ip tuntap add {name} mode tap user $USER` makes it")]
    Absent {
        /// Its name.
        name: String,
    },
    /// The interface is no TAP interface, is somebody else's, or is in use.
    #[error("the interface {name} cannot be used as a TAP interface of this user")]
    Attach {
        /// Its name.
        name: String,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The host refuses a thread or what it waits with.
    #[error("cannot start the network's thread")]
    Start(#[source] io::Error),
}

/// A frame that came in and was not taken yet.
struct Waiting {
    length: usize,
    offload: Offload,
    segments: Segments,
}

/// What the adapter's calls and the thread share.
struct Shared {
    file: File,
    inbound: Mutex<Inbound>,
    outbound: Mutex<Vec<u8>>,
    port: Mutex<Option<Weak<dyn NetPort>>>,
    /// The adapter has no room, and asks by itself once it has.
    blocked: AtomicBool,
    ending: AtomicBool,
    /// The interface had no room for a frame.
    refused: AtomicBool,
}

struct Inbound {
    buffer: Vec<u8>,
    waiting: Option<Waiting>,
    accepts: Accepts,
}

/// A TAP interface.
pub struct TapNet {
    mtu: u16,
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TapNet {
    /// Opens the interface `name` and starts its thread.
    ///
    /// # Errors
    ///
    /// [`TapError`]: usually the interface is not there.
    pub fn new(name: &str) -> Result<Self, TapError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        // An interface that is made by opening it would be gone again at the end; and it would
        // take privileges.
        if !std::path::Path::new(CLASS).join(name).exists() {
            return Err(TapError::Absent { name: name.to_owned() });
        }
        let file = options.open(DEVICE).map_err(TapError::Open)?;
        let attach = |source| TapError::Attach { name: name.to_owned(), source };
        kernel::attach(&file, name).map_err(attach)?;
        kernel::accept(&file, Accepts::empty()).map_err(attach)?;
        let mtu = std::fs::read_to_string(format!("{CLASS}/{name}/mtu"));
        let mtu = mtu.ok().and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(MTU);
        let poll = Poll::new().map_err(TapError::Start)?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(TapError::Start)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut SourceFd(&file.as_raw_fd()), INTERFACE, interest)
            .map_err(TapError::Start)?;
        let length = HEADER_LENGTH + FRAME_MAX;
        let shared = Arc::new(Shared {
            file,
            inbound: Mutex::new(Inbound {
                buffer: vec![0; length],
                waiting: None,
                accepts: Accepts::empty(),
            }),
            outbound: Mutex::new(vec![0; length]),
            port: Mutex::new(None),
            blocked: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        });
        let life = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("network".to_owned())
            .spawn(move || life.wait(poll))
            .map_err(TapError::Start)?;
        Ok(Self { mtu, shared, waker, thread: Some(thread) })
    }
}

impl Shared {
    /// The thread: tells the adapter when something changed.
    fn wait(&self, mut poll: Poll) {
        let mut events = Events::with_capacity(8);
        while !self.ending.load(Ordering::Acquire) {
            if let Err(error) = poll.poll(&mut events, None)
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the network of the guest ends");
                return;
            }
            let readable = events.iter().any(|event| event.is_readable());
            let frames = readable && !self.blocked.load(Ordering::Acquire);
            if frames || self.refused.swap(false, Ordering::AcqRel) {
                let port = lock(&self.port).as_ref().and_then(Weak::upgrade);
                if let Some(port) = port {
                    port.changed();
                }
            }
        }
    }
}

impl Drop for TapNet {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        // Without memory for this the kernel would not have let us come here.
        let _ = self.waker.wake();
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !own(thread)) {
            let _ = thread.join();
        }
    }
}

impl NetBackend for TapNet {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn attach(&self, port: Weak<dyn NetPort>) {
        *lock(&self.shared.port) = Some(port);
        self.accept(Accepts::empty());
        lock(&self.shared.inbound).waiting = None;
        self.shared.blocked.store(false, Ordering::Release);
    }

    fn accept(&self, accepts: Accepts) {
        let mut inbound = lock(&self.shared.inbound);
        // A kernel that does not know datagrams in a row does the rest.
        let known = kernel::accept(&self.shared.file, accepts)
            .or_else(|_| kernel::accept(&self.shared.file, accepts - Accepts::UDP));
        // What the kernel refuses comes in plain frames, as before.
        if known.is_ok() {
            inbound.accepts = accepts;
        }
    }

    fn transmit(&self, offload: &Offload, parts: &[Slice<'_>]) -> Result<(), Full> {
        let length = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
        if !(ETHERNET_HEADER..=FRAME_MAX).contains(&length) {
            return Ok(());
        }
        let mut buffer = lock(&self.shared.outbound);
        let mut header = offload.to_header();
        header[10..].fill(0);
        buffer[..HEADER_LENGTH].copy_from_slice(&header);
        let mut rest = &mut buffer[HEADER_LENGTH..HEADER_LENGTH + length];
        for part in parts {
            let (head, tail) = rest.split_at_mut(part.len());
            part.copy_to(head);
            rest = tail;
        }
        let bytes = &buffer[..HEADER_LENGTH + length];
        self.shared.refused.store(true, Ordering::Release);
        match (&self.shared.file).write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Full),
            // Frames that the kernel does not want, or an interface that is down, are lost frames.
            _ => {
                self.shared.refused.store(false, Ordering::Release);
                Ok(())
            }
        }
    }

    fn receive(&self, take: &mut dyn FnMut(&Received<'_>) -> bool) {
        let mut inbound = lock(&self.shared.inbound);
        let Inbound { buffer, waiting, accepts } = &mut *inbound;
        loop {
            let frame = match waiting {
                Some(frame) => frame,
                None => {
                    let Ok(length) = (&self.shared.file).read(buffer) else { break };
                    let Some(header) = buffer[..length].first_chunk::<HEADER_LENGTH>() else {
                        continue;
                    };
                    let mut offload = Offload::from_header(header);
                    // What comes from the host itself is right even if nobody has looked.
                    offload.valid |= offload.checksum.is_some();
                    let segments = Segments::default();
                    waiting.insert(Waiting { length, offload, segments })
                }
            };
            let bytes = &mut buffer[HEADER_LENGTH..frame.length];
            if !frame.segments.give(bytes, &mut frame.offload, *accepts, take) {
                self.shared.blocked.store(true, Ordering::Release);
                return;
            }
            *waiting = None;
        }
        self.shared.blocked.store(false, Ordering::Release);
    }
}
