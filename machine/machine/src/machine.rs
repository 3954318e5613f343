//! A machine and its life.

use crate::control::{Control, Outcome};
use crate::cpu_model::CpuModel;
use crate::disks::{self, Disk};
use crate::engine::{EngineConfig, EngineError};
use crate::hybrid::{self, HostAccess, HybridPanel};
use crate::kvm::KvmInterface;
use crate::msrs::PlatformMsrs;
use crate::network::{self, Network};
use crate::observer::Observer;
use crate::para;
use crate::platform::PcPlatform;
use crate::shootdown::Member;
use crate::statistics::Statistics;
use crate::technique::Technique;
use crate::thread::{Living, Thread};
use crate::tsc::{self, GuestTsc};
use crate::vcpu::{StartUp, Vcpu};
use ambos_boot::protocol::Display;
use ambos_boot::{BootConfig, BootError, Protocol, XenPvGuest};
use ambos_clock::VmClock;
use ambos_intercept::{Device, Ledger, UnservedLog};
use ambos_kvm_pv::Origin;
use ambos_memory::{GuestRam, MemoryError};
use ambos_pc::apic::{ApicVcpu, TimeStampCounter};
use ambos_pc::chipset::{ChipsetError, PcChipset, PcConfig};
use ambos_pc::{Screen, VideoMode};
use ambos_pc_map::memory::DISPLAY_MEMORY_SIZE;
use ambos_share::ShareError;
use ambos_vcpu::{Attention, CpuState};
use ambos_xen::{Frames, Layout};
use ambos_xen_backends::ControlError;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Reads what to boot.
pub type Loader = Box<dyn FnMut() -> Result<BootConfig, Box<dyn Error + Send + Sync>>>;

/// What a machine is made of.
pub struct Config {
    /// Bytes of RAM.
    pub memory: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// Reads what to boot; called again after each reset, so that the files need not stay in memory.
    pub boot: Loader,
    /// What executes guest code.
    pub engine: EngineConfig,
    /// Whether there is a debug-exit port.
    pub debug_exit: bool,
    /// How much the guest knows.
    pub technique: Technique,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// The network that it is connected to.
    pub network: Option<Network>,
    /// What its screen shows at first; a PV guest has none.
    pub video: VideoMode,
    /// What else it reaches of the host, if [`Config::technique`] is [`Technique::Hybrid`].
    pub access: HostAccess,
    /// Takes what the guest prints on its console: the first serial port, and the paravirtual
    /// consoles.
    pub console: Box<dyn Write + Send>,
}

/// What to do when the guest resets the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterReset {
    /// Boot it again.
    Boot,
    /// End with [`Outcome::Reset`].
    End,
}

/// Why a machine cannot be made.
#[derive(Debug, Error)]
pub enum MachineError {
    /// No RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The guest's files cannot be read.
    #[error(transparent)]
    Files(Box<dyn Error + Send + Sync>),
    /// The guest cannot be loaded.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The chips do not go together.
    #[error(transparent)]
    Chipset(#[from] ChipsetError),
    /// There are more disks than places for them.
    #[error("there are {0} disks, and places for {1}")]
    Disks(usize, usize),
    /// There are more vCPUs than the interface has room for.
    #[error("a PV guest can have {1} vCPUs, not {0}")]
    Vcpus(u32, u32),
    /// There are no event channels.
    #[error("there are no event channels for the guest's console and store")]
    Ports,
    /// There is no control domain.
    #[error(transparent)]
    ControlDomain(#[from] ControlError),
    /// A directory cannot be shared.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host refuses threads.
    #[error("cannot start a thread for a vCPU")]
    Thread(#[source] std::io::Error),
}

/// Reaches into a machine from other threads.
#[derive(Clone)]
pub struct Handle {
    control: Arc<Control>,
    input: Arc<Mutex<Input>>,
}

/// The way of console input to the present chipset; what it does not take yet waits.
#[derive(Default)]
struct Input {
    waiting: std::collections::VecDeque<u8>,
    /// Columns and rows of the window that shows the console, if anybody knows.
    size: Option<(u16, u16)>,
    panel: Option<Arc<dyn FrontPanel>>,
    /// What the screen showed at the end of the last run.
    last_screen: Option<Screen>,
}

/// What someone in front of the machine reaches.
pub(crate) trait FrontPanel: Send + Sync {
    /// Types; returns how many bytes were taken.
    fn type_in(&self, bytes: &[u8]) -> usize;

    /// Says how large the window is that shows the console. Most consoles cannot be told.
    fn resize(&self, columns: u16, rows: u16) {
        let _ = (columns, rows);
    }

    /// Presses the power button.
    fn press_power_button(&self);

    /// Looks at the screen, if there is one.
    fn screen(&self) -> Option<Screen> {
        None
    }
}

impl FrontPanel for PcChipset {
    fn type_in(&self, bytes: &[u8]) -> usize {
        self.console_input(bytes)
    }

    fn press_power_button(&self) {
        Self::press_power_button(self);
    }

    fn screen(&self) -> Option<Screen> {
        Self::screen(self)
    }
}

/// What one run of a machine consists of.
pub(crate) struct Assembly {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) panel: Arc<dyn FrontPanel>,
    /// Names of devices, by their rows in ledgers.
    pub(crate) labels: Vec<String>,
}

/// A guest that is in memory, and the threads that wait for its vCPUs.
struct Loaded {
    entry: Entry,
    threads: Vec<Thread>,
}

/// How it starts.
enum Entry {
    Pc(Box<CpuState>),
    Xen(Box<XenPvGuest>, Box<Frames>),
}

/// Most console input that is kept for a guest that does not read it.
const INPUT_LIMIT: usize = 1 << 20;

impl Input {
    fn drain(&mut self) {
        let Some(panel) = &self.panel else { return };
        while !self.waiting.is_empty() {
            let taken = panel.type_in(self.waiting.make_contiguous());
            if taken == 0 {
                break;
            }
            self.waiting.drain(..taken.min(self.waiting.len()));
        }
    }
}

impl Handle {
    /// Types on the machine's console.
    pub fn send(&self, bytes: &[u8]) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let room = INPUT_LIMIT.saturating_sub(input.waiting.len());
        input.waiting.extend(&bytes[..bytes.len().min(room)]);
        input.drain();
    }

    /// Presses the power button: the guest's operating system decides what comes of it.
    pub fn press_power_button(&self) {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(panel) = &input.panel {
            panel.press_power_button();
        }
    }

    /// Says how large the window is that shows the machine's console.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.size = Some((columns, rows));
        if let Some(panel) = &input.panel {
            panel.resize(columns, rows);
        }
    }

    /// What the machine's screen shows, or showed at its end; `None` if it has no screen.
    pub fn screen(&self) -> Option<Screen> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(panel) = input.panel.clone() else { return input.last_screen.clone() };
        drop(input);
        panel.screen()
    }

    /// Asks the machine to end.
    pub fn stop(&self) {
        self.control.end(Outcome::Stopped);
    }
}

/// A console that survives the chipset it is given to.
#[derive(Clone)]
struct SharedConsole(Arc<Mutex<Box<dyn Write + Send>>>);

impl Write for SharedConsole {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

/// A machine with its guest loaded.
pub struct Machine {
    // Configuration.
    boot: Loader,
    engine: EngineConfig,
    debug_exit: bool,
    technique: Technique,
    model: Arc<CpuModel>,

    // Dependencies.
    console: SharedConsole,
    ram: Arc<GuestRam>,
    /// Who has which part of it, in a PV guest's machine.
    layout: Option<Layout>,
    disks: Vec<Disk>,
    network: Option<Network>,
    access: HostAccess,
    video: VideoMode,

    // Book-keeping.
    control: Arc<Control>,
    input: Arc<Mutex<Input>>,
    ledgers: Vec<Arc<Ledger>>,
    unserved: Arc<UnservedLog>,
    observer: Observer,
    instructions: u64,
    counters: BTreeMap<&'static str, u64>,
    resets: u64,
    /// What the next run begins with, if that has been loaded.
    loaded: Option<Loaded>,
}

impl Machine {
    /// Makes a machine and loads its guest.
    ///
    /// # Errors
    ///
    /// [`MachineError`]: a guest that cannot be loaded is the usual one.
    pub fn new(config: Config) -> Result<Self, MachineError> {
        let made = Instant::now();
        tsc::expect_frequency();
        let Config {
            memory,
            cpus,
            mut boot,
            engine,
            debug_exit,
            technique,
            mut disks,
            network,
            access,
            video,
            console,
        } = config;
        disks::check(&disks, technique)?;
        let transfers = disks::count_transfers(&mut disks);
        let cpus = cpus.max(1);
        let ledgers: Vec<Arc<Ledger>> = (0..cpus).map(|_| Arc::default()).collect();
        let observer =
            Observer { ledgers: ledgers.clone(), labels: Arc::default(), transfers, made };
        let layout = (technique == Technique::Para).then(|| Layout::new(memory));
        let ram = Arc::new(match &layout {
            Some(layout) => GuestRam::new(layout.ram_size())?,
            None => GuestRam::with_display(memory, DISPLAY_MEMORY_SIZE)?,
        });
        if layout.is_some() && cpus > ambos_xen::MAX_VCPUS {
            return Err(MachineError::Vcpus(cpus, ambos_xen::MAX_VCPUS));
        }
        let engine = engine.shared_by(cpus);
        let control = Arc::default();
        let threads = Thread::start(cpus, engine, &ram, &control, layout.is_some())?;
        let (entry, model) = std::thread::scope(|scope| {
            // To ask the processor takes a millisecond where the host is a guest itself.
            let model = scope.spawn(|| CpuModel::host(cpus));
            let entry = load(&ram, layout, &mut boot, cpus, video);
            (entry, model.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let loaded = Loaded { entry: entry?, threads };
        Ok(Self {
            model: Arc::new(model),
            boot,
            engine,
            debug_exit,
            technique,
            console: SharedConsole(Arc::new(Mutex::new(console))),
            ram,
            layout,
            disks,
            network,
            access,
            video,
            control,
            input: Arc::default(),
            ledgers,
            unserved: Arc::default(),
            observer,
            instructions: 0,
            counters: BTreeMap::new(),
            resets: 0,
            loaded: Some(loaded),
        })
    }

    /// What reaches into the machine while it runs.
    pub fn handle(&self) -> Handle {
        Handle { control: Arc::clone(&self.control), input: Arc::clone(&self.input) }
    }

    /// Runs the machine to its end, on this thread and one for each vCPU.
    ///
    /// # Errors
    ///
    /// [`MachineError`] if the host refuses threads or memory, or the guest cannot be loaded again
    /// after a reset.
    pub fn run(
        &mut self,
        mut after_reset: impl FnMut() -> AfterReset,
    ) -> Result<Outcome, MachineError> {
        loop {
            let loaded = match self.loaded.take() {
                Some(loaded) => loaded,
                None => self.load()?,
            };
            let outcome = self.run_once(loaded)?;
            tracing::debug!(?outcome, "the machine's run has ended");
            if outcome != Outcome::Reset || after_reset() == AfterReset::End {
                return Ok(outcome);
            }
            self.resets += 1;
        }
    }

    fn load(&mut self) -> Result<Loaded, MachineError> {
        let cpus = self.ledgers.len() as u32;
        let deprivileged = self.layout.is_some();
        let threads = Thread::start(cpus, self.engine, &self.ram, &self.control, deprivileged)?;
        let entry = load(&self.ram, self.layout, &mut self.boot, cpus, self.video)?;
        Ok(Loaded { entry, threads })
    }

    fn run_once(&mut self, Loaded { entry, threads }: Loaded) -> Result<Outcome, MachineError> {
        let clock = VmClock::monotonic();
        let attentions: Vec<_> =
            threads.iter().map(|thread| Arc::clone(thread.attention())).collect();
        let Assembly { vcpus, panel, labels } = match (entry, self.layout) {
            (Entry::Xen(guest, frames), Some(layout)) => {
                self.assemble_para(&clock, &attentions, &guest, *frames, layout)?
            }
            (Entry::Pc(entry), _) => self.assemble(&clock, &attentions, &entry)?,
            (Entry::Xen(..), None) => return Err(MachineError::Ports),
        };
        *self.observer.labels.lock().unwrap_or_else(PoisonError::into_inner) = labels;
        {
            let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((columns, rows)) = input.size {
                panel.resize(columns, rows);
            }
            input.last_screen = None;
            input.panel = Some(panel);
            input.drain();
        }
        self.control.watch(attentions, Arc::clone(&clock));
        let living: Vec<_> =
            threads.into_iter().zip(vcpus).map(|(thread, vcpu)| thread.run(vcpu)).collect();
        // This thread keeps time while vCPUs run.
        while clock.wait_until_due(self.control.ending()) {
            clock.fire_due();
            self.input.lock().unwrap_or_else(PoisonError::into_inner).drain();
        }
        let works: Vec<_> = living.into_iter().map(Living::join).collect();
        {
            let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
            // Handles may outlive the run, but must not keep its devices and their sockets and files.
            if let Some(panel) = input.panel.take() {
                input.last_screen = panel.screen();
            }
        }
        for work in works {
            let work = work?;
            self.instructions += work.instructions;
            for (label, count) in work.counters {
                *self.counters.entry(label).or_default() += count;
            }
        }
        Ok(self.control.take_outcome())
    }

    fn assemble_para(
        &self,
        clock: &Arc<VmClock>,
        attentions: &[Arc<Attention>],
        guest: &XenPvGuest,
        frames: Frames,
        layout: Layout,
    ) -> Result<Assembly, MachineError> {
        let parts = para::Parts {
            layout,
            guest,
            clock,
            control: &self.control,
            model: &self.model,
            attentions,
            disks: &self.disks,
            network: self.network.as_ref(),
            ledgers: &self.ledgers,
            unserved: &self.unserved,
        };
        let console = || Box::new(self.console.clone());
        para::assemble(&parts, frames, console(), console())
    }

    fn assemble(
        &self,
        clock: &Arc<VmClock>,
        attentions: &[Arc<Attention>],
        entry: &CpuState,
    ) -> Result<Assembly, MachineError> {
        let cpus = self.ledgers.len();
        let base = tsc::host_tsc();
        let counters: Vec<Arc<GuestTsc>> =
            (0..cpus).map(|_| Arc::new(GuestTsc::starting_at(base))).collect();
        let vcpus = attentions.iter().zip(&counters).map(|(attention, tsc)| ApicVcpu {
            attention: Arc::clone(attention),
            tsc: Arc::clone(tsc) as Arc<dyn TimeStampCounter>,
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let origin = Origin { tsc: base, hz: tsc::frequency(), unix_time_ns };
        let mut chipset = PcChipset::new(PcConfig {
            clock: Arc::clone(clock),
            vcpus: vcpus.collect(),
            console: Box::new(self.console.clone()),
            power: Arc::clone(&self.control) as Arc<dyn ambos_pc::power::PowerSink>,
            unix_time_ns,
            ram_size: self.ram.size(),
            debug_exit: self.debug_exit,
        })?;
        chipset.add_vga(&self.ram, self.video)?;
        disks::plug(&mut chipset, &self.ram, clock, &self.disks, self.technique)?;
        if let Some(network) = &self.network {
            network::plug(&mut chipset, &self.ram, clock, network, self.technique)?;
        }
        let keyboard = if self.technique == Technique::Hybrid {
            let console = Box::new(self.console.clone());
            Some(hybrid::plug(&mut chipset, &self.ram, clock, &self.access, console)?)
        } else {
            None
        };
        let chipset = Arc::new(chipset);
        let members: Arc<[Member]> =
            attentions.iter().map(|attention| Member::new(Arc::clone(attention))).collect();
        let apic_row =
            chipset.devices().labels().iter().position(|label| label == PcChipset::LOCAL_APIC);
        let apic_device = Device::new(apic_row.unwrap_or_default());
        let mut vcpus = Vec::new();
        for (index, attention) in attentions.iter().enumerate() {
            let initial = (index == 0).then(|| {
                let mut state = Box::new(entry.clone());
                state.msrs.tsc_offset = counters[0].offset();
                state
            });
            let platform = PcPlatform {
                ports: Arc::clone(chipset.ports()),
                mmio: Arc::clone(chipset.mmio()),
                apic: Arc::clone(&chipset.local_apics()[index]),
                apic_device,
                model: Arc::clone(&self.model),
                msrs: PlatformMsrs::new(self.model.is_intel()),
                kvm: (self.technique == Technique::Hybrid)
                    .then(|| KvmInterface::new(&self.ram, origin, chipset.msi(), cpus)),
                tsc: Arc::clone(&counters[index]),
                members: Arc::clone(&members),
                index,
                ledger: Arc::clone(&self.ledgers[index]),
                unserved: Arc::clone(&self.unserved),
                in_vain: None,
            };
            vcpus.push(Vcpu {
                initial,
                deprivileged: false,
                platform: Box::new(platform),
                members: Arc::clone(&members),
                index,
                ledger: Arc::clone(&self.ledgers[index]),
                attention: Arc::clone(attention),
                control: Arc::clone(&self.control),
                clock: Arc::clone(clock),
                start_up: StartUp::RealMode(Arc::clone(&counters[index])),
            });
        }
        let labels = chipset.devices().labels().to_vec();
        let panel: Arc<dyn FrontPanel> = match keyboard {
            Some(keyboard) => Arc::new(HybridPanel { chipset, keyboard }),
            None => chipset,
        };
        Ok(Assembly { vcpus, panel, labels })
    }

    /// What looks at the counts while the machine runs.
    pub fn observer(&self) -> Observer {
        self.observer.clone()
    }

    /// What was counted since the machine was made.
    pub fn statistics(&self) -> Statistics {
        Statistics::collect(
            &self.observer,
            &self.unserved,
            self.instructions,
            &self.counters,
            self.resets,
        )
    }
}

/// Reads the guest's files and puts them into memory.
fn load(
    ram: &Arc<GuestRam>,
    layout: Option<Layout>,
    boot: &mut Loader,
    cpus: u32,
    video: VideoMode,
) -> Result<Entry, MachineError> {
    let display = Some(match video {
        VideoMode::Text => Display::Text,
        VideoMode::Linear { width, height } => Display::Linear { width, height },
    });
    let mut config = || -> Result<_, MachineError> {
        Ok(BootConfig { cpus, display, ..boot().map_err(MachineError::Files)? })
    };
    let Some(layout) = layout else {
        return Ok(Entry::Pc(Box::new(ambos_boot::load(ram, &config()?)?)));
    };
    std::thread::scope(|scope| {
        let frames = scope.spawn(|| Frames::new(Arc::clone(ram), layout));
        let config = BootConfig { protocol: Protocol::XenPv, ..config()? };
        let guest = ambos_boot::load_xen_pv(ram, &layout, &config)?;
        let frames = frames.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Entry::Xen(Box::new(guest), Box::new(frames)))
    })
}
