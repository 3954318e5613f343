//! The console's ring (`io/console.h`).
//!
//! Output is taken out on the thread of the vCPU that notifies, so the ring is empty again when it
//! goes on; the guest need not be notified of that unless it found the ring full.

use crate::events::{Channel, Notified, Progress};
use crate::ring::{ByteRing, Side};
use crate::shared::{RingError, SharedPages};
use crate::turnstile::Turnstile;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Weak};

/// Places in the page.
mod at {
    pub(super) const INPUT: (u32, u32) = (0, 1024);
    pub(super) const OUTPUT: (u32, u32) = (1024, 2048);
    pub(super) const INPUT_CONSUMER: u32 = 3072;
    pub(super) const INPUT_PRODUCER: u32 = 3076;
    pub(super) const OUTPUT_CONSUMER: u32 = 3080;
    pub(super) const OUTPUT_PRODUCER: u32 = 3084;
}

/// Input that is kept for a guest that does not fetch it.
const INPUT_MAX: usize = 1 << 20;
/// Bytes of output that one call takes.
const OUTPUT_BUDGET: usize = 1 << 20;

/// The console of a guest.
pub(crate) struct Console(Turnstile<State>);

struct State {
    // Dependencies.
    pages: SharedPages,
    sink: Box<dyn Write + Send>,
    /// There once the guest's port is bound.
    channel: Option<Box<dyn Channel>>,

    // Volatile state.
    input: ByteRing,
    output: ByteRing,
    /// Input for which there is no room in the ring.
    waiting: VecDeque<u8>,
    /// The guest broke the ring.
    broken: bool,
}

impl Console {
    /// The console whose ring is in `pages`. What the guest prints goes to `sink`.
    pub(crate) fn new(
        pages: SharedPages,
        sink: Box<dyn Write + Send>,
    ) -> Result<Arc<Self>, RingError> {
        let input = ByteRing::new(
            &pages,
            at::INPUT,
            at::INPUT_CONSUMER,
            at::INPUT_PRODUCER,
            Side::Producer,
        )?;
        let output = ByteRing::new(
            &pages,
            at::OUTPUT,
            at::OUTPUT_CONSUMER,
            at::OUTPUT_PRODUCER,
            Side::Consumer,
        )?;
        let (channel, waiting) = (None, VecDeque::new());
        let state = State { pages, sink, channel, input, output, waiting, broken: false };
        Ok(Arc::new(Self(Turnstile::new(state))))
    }

    /// Notifies the guest over `channel` from now on.
    pub(crate) fn set_channel(&self, channel: Box<dyn Channel>) {
        self.0.lock().channel = Some(channel);
    }

    /// Types on the console. What a guest that does not fetch its input has no room for is lost.
    pub(crate) fn input(&self, bytes: &[u8]) {
        {
            let mut state = self.0.lock();
            let room = INPUT_MAX.saturating_sub(state.waiting.len());
            state.waiting.extend(&bytes[..bytes.len().min(room)]);
        }
        // What is left is served when the guest notifies that it has fetched some.
        let _ = self.notified();
    }
}

impl Notified for Console {
    fn notified(&self) -> Progress {
        self.0.serve(|state| match state.serve() {
            Ok(progress) => progress,
            Err(error) => {
                if !std::mem::replace(&mut state.broken, true) {
                    tracing::warn!("the guest's console is broken: {error}");
                }
                Progress::Done
            }
        })
    }
}

impl State {
    fn serve(&mut self) -> Result<Progress, RingError> {
        if self.broken {
            return Ok(Progress::Done);
        }
        let (more, was_full) = self.take_output()?;
        let put = self.put_input()?;
        if (was_full || put)
            && let Some(channel) = &self.channel
        {
            channel.notify();
        }
        Ok(if more { Progress::More } else { Progress::Done })
    }

    /// Whether there is still more, and whether the ring was found full.
    fn take_output(&mut self) -> Result<(bool, bool), RingError> {
        let (mut left, mut was_full) = (OUTPUT_BUDGET, false);
        loop {
            let mut bytes = [0; at::OUTPUT.1 as usize];
            let count = self.output.read(&self.pages, &mut bytes)?;
            was_full |= count == bytes.len();
            if count == 0 || left == 0 {
                return Ok((count > 0, was_full));
            }
            left = left.saturating_sub(count);
            // Where the output goes may be gone; the guest runs on without.
            let _ = self.sink.write_all(&bytes[..count]).and_then(|()| self.sink.flush());
        }
    }

    fn put_input(&mut self) -> Result<bool, RingError> {
        let mut put = false;
        while !self.waiting.is_empty() {
            let count = self.input.write(&self.pages, self.waiting.as_slices().0)?;
            if count == 0 {
                break;
            }
            self.waiting.drain(..count);
            put = true;
        }
        Ok(put)
    }
}

/// What a port of the console is bound to: it does not keep the console alive.
pub(crate) struct ConsolePort(pub(crate) Weak<Console>);

impl Notified for ConsolePort {
    fn notified(&self) -> Progress {
        self.0.upgrade().map_or(Progress::Done, |console| console.notified())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::GuestPort;
    use crate::testing::Guest;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    const PORT: u32 = 2;

    struct Bench {
        guest: Guest,
        pages: SharedPages,
        console: Arc<Console>,
        sink: Sink,
    }

    fn bench() -> Bench {
        let guest = Guest::new();
        let page = guest.page();
        let share = || SharedPages::page(guest.ram(), page);
        let sink = Sink::default();
        let console = Console::new(share(), Box::new(sink.clone())).unwrap();
        let port = Arc::new(ConsolePort(Arc::downgrade(&console)));
        console.set_channel(guest.channels().bind(GuestPort(PORT), port).unwrap());
        Bench { pages: share(), console, sink, guest }
    }

    impl Bench {
        fn print(&self, bytes: &[u8]) -> usize {
            let end = Side::Producer;
            let mut ring = ByteRing::new(
                &self.pages,
                at::OUTPUT,
                at::OUTPUT_CONSUMER,
                at::OUTPUT_PRODUCER,
                end,
            )
            .unwrap();
            ring.write(&self.pages, bytes).unwrap()
        }

        fn fetch(&self) -> Vec<u8> {
            let end = Side::Consumer;
            let mut ring =
                ByteRing::new(&self.pages, at::INPUT, at::INPUT_CONSUMER, at::INPUT_PRODUCER, end)
                    .unwrap();
            let mut bytes = vec![0; 700];
            let count = ring.read(&self.pages, &mut bytes).unwrap();
            bytes.truncate(count);
            bytes
        }
    }

    #[test]
    fn output_comes_out() {
        let bench = bench();
        assert_eq!(bench.print(b"hello\n"), 6);
        assert!(bench.guest.notify(PORT));
        assert_eq!(*bench.sink.0.lock().unwrap(), b"hello\n");
        assert_eq!(bench.guest.notifications(PORT), 0);
        assert_eq!(bench.print(&[b'x'; 3000]), 2048);
        assert!(bench.guest.notify(PORT));
        assert_eq!(bench.sink.0.lock().unwrap().len(), 2054);
        // It may have waited for room.
        assert_eq!(bench.guest.notifications(PORT), 1);
    }

    #[test]
    fn input_waits_for_room() {
        let bench = bench();
        let bytes: Vec<u8> = (0..5000u32).map(|index| (index % 251) as u8).collect();
        bench.console.input(&bytes);
        let mut fetched = Vec::new();
        while fetched.len() < bytes.len() {
            assert_eq!(bench.guest.notifications(PORT), u32::from(fetched.len() < 4300));
            fetched.extend(bench.fetch());
            assert!(bench.guest.notify(PORT));
        }
        assert_eq!(fetched, bytes);
    }

    #[test]
    fn nonsense_ends_the_console_only() {
        let bench = bench();
        bench.pages.store(at::OUTPUT_PRODUCER, 5000).unwrap();
        assert!(bench.guest.notify(PORT));
        bench.pages.store(at::OUTPUT_PRODUCER, 1).unwrap();
        assert!(bench.guest.notify(PORT));
        bench.console.input(b"x");
        assert!(bench.sink.0.lock().unwrap().is_empty());
    }
}
