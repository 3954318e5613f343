//! The threads of vCPUs.
//!
//! An engine is made on its vCPU's thread, and takes as long to make as other parts of the machine. So the thread begins before the rest of the
//! machine is there, makes its engine, and waits for its vCPU. A monitor uses most memory of all while it unpacks a kernel; so that it does
//! not grow with the number of vCPUs, the engines of several are made only after that.

use crate::control::{Control, Outcome};
use crate::engine::{EngineConfig, EngineError};
use crate::machine::MachineError;
use crate::vcpu::{Vcpu, Work};
use ambos_memory::GuestRam;
use ambos_vcpu::Attention;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A thread that waits for its vCPU. It ends without one if this is dropped.
pub(crate) struct Thread {
    vcpu: Sender<Vcpu>,
    life: JoinHandle<Result<Work, EngineError>>,
    /// Where the engine will look for requests.
    attention: Arc<Attention>,
}

/// A thread whose vCPU lives.
pub(crate) struct Living(JoinHandle<Result<Work, EngineError>>);

/// Ends the run if a vCPU's thread unwinds.
struct EndOnPanic(Arc<Control>);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        self.0.end(Outcome::Stopped);
    }
}

impl Thread {
    /// Starts those of `cpus` vCPUs, which the guest will have deprivileged or not. Should one of them panic, the machine's run ends.
    pub(crate) fn start(
        cpus: u32,
        engine: EngineConfig,
        ram: &Arc<GuestRam>,
        control: &Arc<Control>,
        deprivileged: bool,
    ) -> Result<Vec<Self>, MachineError> {
        let start = |index: u32| {
            let attention = Arc::<Attention>::default();
            let (ram, own) = (Arc::clone(ram), Arc::clone(&attention));
            // A vCPU that panics is the monitor's failure; the others must not wait for it.
            let guard = EndOnPanic(Arc::clone(control));
            let (vcpu, waiting) = channel::<Vcpu>();
            let life = move || {
                let make = || engine.make(&ram, &own, deprivileged);
                let early = (cpus == 1).then(make);
                let work = match waiting.recv() {
                    Ok(mut vcpu) => vcpu.run(early.unwrap_or_else(make)),
                    Err(_) => Ok(Work::default()),
                };
                std::mem::forget(guard);
                work
            };
            let thread = std::thread::Builder::new().name(format!("vcpu{index}"));
            let life = thread.spawn(life).map_err(MachineError::Thread)?;
            Ok(Self { vcpu, life, attention })
        };
        (0..cpus).map(start).collect()
    }

    /// Where its vCPU is asked to look up.
    pub(crate) fn attention(&self) -> &Arc<Attention> {
        &self.attention
    }

    /// Lets the vCPU live.
    pub(crate) fn run(self, vcpu: Vcpu) -> Living {
        // If there is nobody to take it, the run is ending, and the thread's end says why.
        let _ = self.vcpu.send(vcpu);
        Living(self.life)
    }
}

impl Living {
    /// Waits until the vCPU's life has ended, and says what it did.
    pub(crate) fn join(self) -> Result<Work, EngineError> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineKind;

    #[test]
    fn a_thread_that_gets_no_vcpu_ends() {
        let ram = Arc::new(GuestRam::new(1 << 20).unwrap());
        let config = EngineConfig { kind: EngineKind::Interpret, ..EngineConfig::default() };
        let control = Arc::default();
        let threads = Thread::start(2, config, &ram, &control, false).unwrap();
        for Thread { vcpu, life, .. } in threads {
            drop(vcpu);
            assert_eq!(life.join().unwrap().unwrap().instructions, 0);
        }
        assert!(!control.is_ending());
    }
}
