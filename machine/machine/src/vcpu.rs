//! The life of one vCPU on its thread.

use crate::control::{Control, Outcome};
use crate::engine::EngineError;
use crate::halt_poll::HaltPoll;
use crate::shootdown::Member;
use crate::tsc::GuestTsc;
use ambos_clock::VmClock;
use ambos_intercept::{Intercept, Ledger};
use ambos_vcpu::{Attention, CpuState, Engine, Platform, Request, Segment, Stop};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a halted vCPU that looks for work pauses before it looks at the time.
const LOOKS: u32 = 4;

/// What an engine did in one run of a machine.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) instructions: u64,
    pub(crate) counters: Vec<(&'static str, u64)>,
}

/// A vCPU, ready to run.
pub(crate) struct Vcpu {
    /// What the engine starts with, if not with its reset state.
    pub(crate) initial: Option<Box<CpuState>>,
    /// Whether the guest's kernel runs at the least privilege.
    pub(crate) deprivileged: bool,
    pub(crate) platform: Box<dyn VcpuPlatform>,
    pub(crate) members: Arc<[Member]>,
    pub(crate) index: usize,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Arc<VmClock>,
    pub(crate) start_up: StartUp,
}

/// What a vCPU reaches of its machine, and what of it must know when it sleeps.
pub(crate) trait VcpuPlatform: Platform + Send {
    /// Whether the guest lets the monitor look for work before the vCPU sleeps.
    fn may_poll(&self) -> bool {
        true
    }

    /// The vCPU goes to sleep.
    fn sleeps(&self) {}

    /// It woke. Returns whether translations must be forgotten.
    fn wakes(&self) -> bool {
        false
    }
}

/// What a start-up message makes of a vCPU. The first one runs without.
pub(crate) enum StartUp {
    /// It starts in real mode, at the page that the message names.
    RealMode(Arc<GuestTsc>),
    /// Its supervisor starts it with the first event.
    ByEvent,
}

impl Vcpu {
    /// Runs until the machine's run ends. Returns what the engine did.
    ///
    /// # Errors
    ///
    /// [`EngineError`] if there is no engine; the machine's run ends.
    pub(crate) fn run(
        &mut self,
        engine: Result<Box<dyn Engine>, EngineError>,
    ) -> Result<Work, EngineError> {
        let mut engine = engine.inspect_err(|_| self.control.end(Outcome::Stopped))?;
        if let Some(state) = self.initial.take() {
            engine.set_state(&state);
        }
        if self.deprivileged {
            engine.deprivilege();
        }
        self.live(engine.as_mut());
        Ok(Work { instructions: engine.instructions(), counters: engine.counters() })
    }

    fn live(&mut self, engine: &mut dyn Engine) {
        if self.index > 0 && !self.wait_for_start_up(engine) {
            return;
        }
        let mut poll = HaltPoll::on_host(self.members.len());
        while !self.control.is_ending() {
            self.member().set_running(true);
            let stop = engine.run(self.platform.as_mut(), None);
            self.member().set_running(false);
            match stop {
                Stop::Halted => self.halt(engine, &mut poll),
                Stop::Asked | Stop::Budget => {}
                Stop::WaitForStartUp => {
                    if !self.wait_for_start_up(engine) {
                        break;
                    }
                }
                Stop::Failed(reason) => self.control.end(Outcome::Failed(reason)),
                Stop::Crashed(crash) => self.control.end(Outcome::Crashed(crash.to_string())),
            }
        }
    }

    fn member(&self) -> &Member {
        &self.members[self.index]
    }

    /// Waits until there is a reason to leave HLT.
    fn halt(&self, engine: &mut dyn Engine, poll: &mut HaltPoll) {
        let mut reasons = Request::NMI | Request::INIT | Request::STOP;
        if engine.interrupts_enabled() {
            reasons |= Request::INTERRUPT;
        }
        if self.attention.pending().intersects(reasons) {
            return;
        }
        self.clock.idle_begins();
        let start = Instant::now();
        if !self.platform.may_poll() || !self.look_for_work(reasons, start, poll.time()) {
            self.sleep(engine, reasons);
        }
        poll.learn(start.elapsed());
        self.clock.idle_ends();
    }

    /// Looks for one of `reasons` until `time` after `start`; returns whether there is one.
    fn look_for_work(&self, reasons: Request, start: Instant, time: Duration) -> bool {
        // Whoever brings work needs no wake-up then. A timer is as well served by a sleeper.
        while !self.attention.pending().intersects(reasons) {
            if start.elapsed() >= time {
                return false;
            }
            for _ in 0..LOOKS {
                std::hint::spin_loop();
            }
        }
        true
    }

    /// Sleeps until one of `reasons`. The sleeper serves timers itself, so that the
    /// interrupt of an idle guest's timer does not have to cross threads.
    fn sleep(&self, engine: &mut dyn Engine, reasons: Request) {
        self.platform.sleeps();
        while !self.attention.pending().intersects(reasons) {
            let ticket = self.ledger.start(Intercept::Idle);
            self.attention.wait(reasons, self.clock.time_to_next());
            self.ledger.finish(ticket);
            self.clock.fire_due();
        }
        if self.platform.wakes() {
            engine.flush_translations();
        }
    }

    /// Waits for a start-up message and sets the state it asks for; `false` if the run ends first.
    fn wait_for_start_up(&self, engine: &mut dyn Engine) -> bool {
        self.attention.await_start_up();
        loop {
            self.attention.wait(Request::SIPI | Request::STOP, None);
            if self.control.is_ending() {
                return false;
            }
            self.attention.take(Request::STOP | Request::INIT);
            let Some(vector) = self.attention.take_start_up() else { continue };
            match &self.start_up {
                StartUp::RealMode(tsc) => {
                    let mut state = CpuState::reset();
                    state.segments.cs = Segment::real_mode(u16::from(vector) << 8, true);
                    state.rip = 0;
                    state.msrs.tsc_offset = tsc.offset();
                    engine.set_state(&state);
                }
                StartUp::ByEvent => self.attention.raise(Request::INTERRUPT),
            }
            return true;
        }
    }
}
