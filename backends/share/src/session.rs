//! A guest's use of a shared directory.

use crate::handles::Handles;
use crate::request::{self, ANSWER, HEADER, Header, WRITE_HEADER, errno, opcode};
use crate::window::{Answer, COPIED_MAX, Window};
use crate::{Share, ShareError};
use ambos_memory::{DmaRange, GuestRam, NotRam};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use rustix::fs::Mode;
use rustix::process::umask;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a guest may take what it knows of names and attributes for true: programs of the host
/// may change the directory as well.
const TRUST: Duration = Duration::from_secs(1);

/// Answers a guest's requests.
pub struct Session {
    share: Share,
    ram: Arc<GuestRam>,
    window: Window,
    server: Server<PassthroughFs>,
    handles: Handles,
}

fn server(share: &Share) -> io::Result<Server<PassthroughFs>> {
    let config = Config {
        root_dir: share.directory.clone(),
        entry_timeout: TRUST,
        attr_timeout: TRUST,
        cache_policy: CachePolicy::Auto,
        xattr: true,
        ..Config::default()
    };
    let files = PassthroughFs::new(config)?;
    keeping_the_mask(|| files.import())?;
    Ok(Server::new(files))
}

/// The library clears the process's file mode creation mask where it opens the directory. One
/// session at a time: a second one would take the cleared mask for the process's own and keep it.
fn keeping_the_mask<T>(action: impl FnOnce() -> T) -> T {
    static MASK: Mutex<()> = Mutex::new(());
    let _alone = MASK.lock().unwrap_or_else(PoisonError::into_inner);
    let mask = umask(Mode::RWXG | Mode::RWXO);
    let result = action();
    umask(mask);
    result
}

fn total(ranges: &[DmaRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range.length)).sum()
}

impl Session {
    /// A session for the guest with the memory `ram`.
    ///
    /// # Errors
    ///
    /// [`ShareError`] if the directory is gone or the memory cannot be mapped once more.
    pub fn new(share: &Share, ram: &Arc<GuestRam>) -> Result<Self, ShareError> {
        let server = server(share)
            .map_err(|source| ShareError::Directory { path: (&share.directory).into(), source })?;
        let window = Window::new(ram)?;
        Ok(Self {
            share: share.clone(),
            ram: Arc::clone(ram),
            window,
            server,
            handles: Handles::new(),
        })
    }

    /// Forgets all that the guest has open.
    pub fn reset(&mut self) {
        match server(&self.share) {
            Ok(server) => self.server = server,
            // The old one still serves the directory that was there.
            Err(error) => tracing::warn!("a shared directory cannot be opened again: {error}"),
        }
        self.handles = Handles::new();
    }

    /// Answers the request in `readable`, in `writable`; returns how many bytes were written.
    ///
    /// # Errors
    ///
    /// [`NotRam`] if some of it is not in memory.
    pub fn serve(&mut self, readable: &[DmaRange], writable: &[DmaRange]) -> Result<u32, NotRam> {
        // The library is given only what is there.
        self.ram.dma_slices(writable)?;
        let length = total(readable);
        let mut bytes = vec![0; length.min(COPIED_MAX as u64) as usize];
        self.read(readable, &mut bytes)?;
        let Some((head, _)) = bytes.split_first_chunk_mut::<HEADER>() else { return Ok(0) };
        let header = Header::from_bytes(head);
        // Whoever the guest's user is, it is the monitor's here, which the library takes zeroes for.
        head[24..32].fill(0);
        let mut data: &[DmaRange] = &[];
        let after;
        if header.opcode == opcode::WRITE {
            bytes.truncate(HEADER + WRITE_HEADER);
            after = skip(readable, bytes.len() as u64);
            data = &after;
        }
        let answer = self.answer(&header, &mut bytes, length, data, writable);
        let answer = match answer {
            Ok(Some(written)) => return Ok(written),
            Ok(None) => return Ok(0),
            Err(Reply::Copied(answer)) => answer,
            Err(Reply::Failed(_)) if !header.is_answered() => return Ok(0),
            Err(Reply::Failed(error)) => request::failure(&header, error).to_vec(),
        };
        self.write(writable, &answer)?;
        Ok(answer.len() as u32)
    }

    /// Lets the library answer; what it wrote to guest memory itself, or what is still to be written.
    fn answer(
        &mut self,
        header: &Header,
        bytes: &mut [u8],
        length: u64,
        data: &[DmaRange],
        writable: &[DmaRange],
    ) -> Result<Option<u32>, Reply> {
        if u64::from(header.length) != length || bytes.len() as u64 + total(data) != length {
            return Err(Reply::Failed(errno::EINVAL));
        }
        request::check(header, &mut bytes[HEADER..], self.share.read_only)
            .map_err(Reply::Failed)?;
        if self.handles.is_full_for(header) {
            return Err(Reply::Failed(errno::ENFILE));
        }
        if header.opcode == opcode::INIT {
            // A guest that begins anew has nothing open.
            self.reset();
        }
        let to_guest = header.answers_with_data();
        let room = if to_guest {
            Answer::Guest(writable)
        } else {
            Answer::Copied(total(writable).min(COPIED_MAX as u64) as usize)
        };
        let (reader, writer) =
            self.window.lay_out(bytes, data, &room).map_err(|_| Reply::Failed(errno::EINVAL))?;
        let server = &self.server;
        let call = || server.handle_message(reader, writer, None, None);
        let masked = matches!(header.opcode, opcode::INIT | opcode::DESTROY);
        let result =
            catch_unwind(AssertUnwindSafe(|| if masked { keeping_the_mask(call) } else { call() }));
        if to_guest {
            self.ram.device_wrote(writable);
        }
        let written = match result {
            Ok(Ok(written)) => written.min(total(writable) as usize),
            Ok(Err(error)) => {
                tracing::debug!("a request for a shared directory makes no sense: {error}");
                return Err(Reply::Failed(errno::EINVAL));
            }
            Err(_) => {
                tracing::error!("a shared directory had to begin anew");
                self.reset();
                return Err(Reply::Failed(errno::EIO));
            }
        };
        if to_guest {
            return Ok(Some(written as u32));
        }
        let mut answer = self.window.answer(written).map_err(|_| Reply::Failed(errno::EIO))?;
        if header.opcode == opcode::INIT {
            request::offer(&bytes[HEADER..], &mut answer);
        }
        self.handles.note(header, &bytes[HEADER..], &answer);
        if !header.is_answered() || answer.len() < ANSWER {
            return Ok(None);
        }
        Err(Reply::Copied(answer))
    }

    fn read(&self, ranges: &[DmaRange], bytes: &mut [u8]) -> Result<(), NotRam> {
        let mut rest = bytes;
        for slice in self.ram.dma_slices(ranges)? {
            let (head, tail) = rest.split_at_mut(slice.len().min(rest.len()));
            slice.copy_to(head);
            rest = tail;
        }
        Ok(())
    }

    fn write(&self, ranges: &[DmaRange], bytes: &[u8]) -> Result<(), NotRam> {
        let mut rest = bytes;
        for slice in self.ram.dma_slices(ranges)? {
            let (head, tail) = rest.split_at(slice.len().min(rest.len()));
            slice.copy_from(head);
            rest = tail;
        }
        self.ram.device_wrote(ranges);
        Ok(())
    }
}

/// What is still to be written to guest memory.
enum Reply {
    /// An answer.
    Copied(Vec<u8>),
    /// The number of an error.
    Failed(i32),
}

/// `ranges` without the first `length` bytes.
fn skip(ranges: &[DmaRange], length: u64) -> Vec<DmaRange> {
    let mut left = length;
    let rest = ranges.iter().map(|range| {
        let skipped = u64::from(range.length).min(left);
        left -= skipped;
        let address = range.address.wrapping_add(skipped);
        DmaRange { address, length: range.length - skipped as u32 }
    });
    rest.filter(|range| range.length > 0).collect()
}
