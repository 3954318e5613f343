//! The thread that waits for the host's sockets.

use crate::hub::{FIRST_TOKEN, Hub};
use crate::{Header, VsockPort};
use mio::net::UnixListener;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use thiserror::Error;

/// Events besides those of connections.
const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const _: () = assert!(WAKER.0 < FIRST_TOKEN);
/// Events that are looked at in one go.
const EVENTS: usize = 64;

/// Why there are no sockets.
#[derive(Debug, Error)]
pub enum SocketsError {
    /// The socket that programs of the host connect to cannot be made.
    #[error("cannot listen on the socket {path}")]
    Listen {
        /// Where it was to be.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// The host refuses a thread or what it waits with.
    #[error("cannot start the thread for sockets")]
    Start(#[source] io::Error),
}

/// The host's side of a guest's sockets.
pub struct UnixSockets {
    path: PathBuf,
    cid: u64,
    hub: Arc<Mutex<Hub>>,
    waker: Waker,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens at `path`, where a monitor that was killed may have left its socket.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            // The standard library's reason names a constant of the C library.
            Err(io::Error::new(error.kind(), "a socket's path has at most 107 bytes"))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let is_socket = path.symlink_metadata()?.file_type().is_socket();
            let refused = UnixStream::connect(path)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if !(is_socket && refused) {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

impl UnixSockets {
    /// Listens at `path` for programs that want to reach the guest, which has the address `cid`.
    ///
    /// # Errors
    ///
    /// [`SocketsError`]: usually there is something else at `path`, or another guest listens there.
    pub fn new(path: &Path, cid: u64) -> Result<Self, SocketsError> {
        let error = |source| SocketsError::Listen { path: path.to_owned(), source };
        let mut listener = listen(path).map_err(error)?;
        let poll = Poll::new().map_err(SocketsError::Start)?;
        let registry = poll.registry();
        registry
            .register(&mut listener, LISTENER, Interest::READABLE)
            .map_err(SocketsError::Start)?;
        let waker = Waker::new(registry, WAKER).map_err(SocketsError::Start)?;
        let hub = Hub::new(path, cid, registry.try_clone().map_err(SocketsError::Start)?);
        let hub = Arc::new(Mutex::new(hub));
        let ending = Arc::new(AtomicBool::new(false));
        let thread = {
            let (hub, ending) = (Arc::clone(&hub), Arc::clone(&ending));
            let life = move || wait(poll, &listener, &hub, &ending);
            std::thread::Builder::new().name("sockets".to_owned()).spawn(life)
        };
        let thread = Some(thread.map_err(SocketsError::Start)?);
        Ok(Self { path: path.to_owned(), cid, hub, waker, ending, thread })
    }

    /// The guest's address.
    pub fn cid(&self) -> u64 {
        self.cid
    }

    /// Connects a device, in place of the one that was there; all connections end.
    pub fn attach(&self, port: Weak<dyn VsockPort>) {
        lock(&self.hub).attach(port);
    }

    /// Ends all connections, because the guest has forgotten them.
    pub fn reset(&self) {
        lock(&self.hub).forget();
    }

    /// Takes a packet of the guest.
    pub fn transmit(&self, header: &Header, data: &[u8]) {
        lock(&self.hub).transmit(header, data);
    }

    /// Whether [`UnixSockets::receive`] may have something.
    pub fn has_news(&self) -> bool {
        lock(&self.hub).has_news()
    }

    /// The next packet for the guest, with at most `room` bytes of data, which replace what is in
    /// `data`.
    pub fn receive(&self, room: usize, data: &mut Vec<u8>) -> Option<Header> {
        lock(&self.hub).receive(room, data)
    }
}

impl Drop for UnixSockets {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        // If the thread cannot be woken it stays behind with nothing to do.
        let woken = self.waker.wake().is_ok();
        // The last owner may be the thread itself, in the middle of a call of its device.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| woken && !own(thread)) {
            // It never panics; and if it did there would be nothing left to do here.
            let _ = thread.join();
        }
        // Someone may have removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The thread's life.
fn wait(mut poll: Poll, listener: &UnixListener, hub: &Mutex<Hub>, ending: &AtomicBool) {
    let mut events = Events::with_capacity(EVENTS);
    while !ending.load(Ordering::Acquire) {
        match poll.poll(&mut events, None) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!("the host's sockets cannot be waited for: {error}");
                return;
            }
        }
        let port = {
            let mut hub = lock(hub);
            for event in &events {
                match event.token() {
                    LISTENER => accept_all(listener, &mut hub),
                    WAKER => {}
                    Token(token) => {
                        hub.ready(token, event.is_readable(), event.is_writable());
                    }
                }
            }
            if hub.has_news() { hub.port() } else { None }
        };
        if let Some(port) = port.and_then(|port| port.upgrade()) {
            port.changed();
        }
    }
}

fn accept_all(listener: &UnixListener, hub: &mut Hub) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => hub.accept(stream),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::warn!("a connection to the guest cannot be taken: {error}");
                return;
            }
        }
    }
}
