//! The bus between the interrupt controllers.
//!
//! Interrupt messages come from local APICs (inter-processor interrupts), the I/O APIC, and devices
//! (message-signalled interrupts), on any thread. The fabric itself has no lock: how a local APIC is
//! addressed is one atomic word of it, and only APICs that get the message are locked, one after
//! the other.

use super::LocalApic;
use super::registers::x2apic_logical_id;
use super::spec::DeliveryMode;
use super::timer::TimeStampCounter;
use crate::PicPair;
use ambos_clock::VmClock;
use ambos_vcpu::Attention;
use ambos_wire::{InputPin, MsiTarget, WireTarget};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this ID.
    Physical(u32),
    /// The APICs that find themselves in this logical destination.
    Logical(u32),
    /// Everybody.
    All,
    /// Everybody but the APIC with this ID.
    AllBut(u32),
}

impl Destination {
    /// The eight-bit destination of I/O APIC entries and message addresses.
    pub const fn from_field(destination: u8, logical: bool) -> Self {
        match (destination, logical) {
            (_, true) => Self::Logical(destination as u32),
            (0xff, false) => Self::All,
            (_, false) => Self::Physical(destination as u32),
        }
    }
}

/// An interrupt message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Who gets it.
    pub destination: Destination,
    /// What it does.
    pub mode: DeliveryMode,
    /// The vector, for modes that have one.
    pub vector: u8,
    /// Whether its end of interrupt concerns the I/O APIC.
    pub level_triggered: bool,
}

/// How a local APIC takes part in logical addressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    /// By the ID derived from its own.
    X2Apic,
    /// By a bit of its own.
    Flat(u8),
    /// By a cluster and a bit within it.
    Cluster(u8),
}

impl Routing {
    /// As one word.
    pub(super) const fn pack(self) -> u32 {
        match self {
            Self::X2Apic => 0x200,
            Self::Cluster(id) => 0x100 | id as u32,
            Self::Flat(id) => id as u32,
        }
    }

    pub(super) const fn unpack(word: u32) -> Self {
        match word >> 8 {
            0 => Self::Flat(word as u8),
            1 => Self::Cluster(word as u8),
            _ => Self::X2Apic,
        }
    }

    /// Whether the APIC `id` is in the logical destination `destination`.
    pub(super) fn includes(self, id: u32, destination: u32) -> bool {
        match self {
            Self::X2Apic => {
                let own = x2apic_logical_id(id);
                own >> 16 == destination >> 16 && own & destination & 0xffff != 0
            }
            Self::Flat(own) => destination <= 0xff && own & destination as u8 != 0,
            Self::Cluster(own) => {
                let cluster = destination >> 4;
                destination <= 0xff
                    && (cluster == 0xf || cluster == u32::from(own >> 4))
                    && own & destination as u8 & 0xf != 0
            }
        }
    }
}

/// Who hears of the end of level-triggered interrupts: an I/O APIC.
pub trait EndOfInterrupt: Send + Sync {
    /// An interrupt with `vector` has been served.
    fn end_of_interrupt(&self, vector: u8);
}

/// All local APICs of a machine and the way to them.
pub struct InterruptFabric {
    // Dependencies.
    pic: OnceLock<Weak<Mutex<PicPair>>>,
    io_apic: OnceLock<Weak<dyn EndOfInterrupt>>,

    // Configuration.
    apics: Vec<Arc<LocalApic>>,
}

impl fmt::Debug for InterruptFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterruptFabric").field("apics", &self.apics.len()).finish_non_exhaustive()
    }
}

/// What a local APIC needs of its vCPU.
pub struct ApicVcpu {
    /// Where it asks for the vCPU.
    pub attention: Arc<Attention>,
    /// What its TSC deadlines are compared with.
    pub tsc: Arc<dyn TimeStampCounter>,
}

impl InterruptFabric {
    /// Local APICs for `vcpus`, with IDs from zero up. The first is the bootstrap processor's, in
    /// virtual wire mode as firmware leaves it.
    pub fn new(clock: &Arc<VmClock>, vcpus: Vec<ApicVcpu>) -> Arc<Self> {
        Arc::new_cyclic(|fabric| {
            let apics = (0..).zip(vcpus);
            let apics =
                apics.map(|(id, vcpu)| LocalApic::new(id, clock, vcpu, Weak::clone(fabric)));
            let apics: Vec<_> = apics.collect();
            if let Some(bootstrap) = apics.first() {
                bootstrap.set_virtual_wire();
            }
            Self { pic: OnceLock::new(), io_apic: OnceLock::new(), apics }
        })
    }

    /// Connects the 8259 pair whose vectors an ExtINT fetches; only the first call counts.
    pub fn connect_pic(&self, pic: &Arc<Mutex<PicPair>>) {
        let _ = self.pic.set(Arc::downgrade(pic));
    }

    /// Connects the I/O APIC that hears of ends of interrupts; only the first call counts.
    pub fn connect_io_apic(&self, io_apic: Weak<dyn EndOfInterrupt>) {
        let _ = self.io_apic.set(io_apic);
    }

    /// The local APICs by ID.
    pub fn apics(&self) -> &[Arc<LocalApic>] {
        &self.apics
    }

    /// The pin LINT0 of all local APICs.
    pub fn lint0(self: &Arc<Self>) -> InputPin {
        InputPin::new(Arc::clone(self) as Arc<dyn WireTarget>, 0)
    }

    /// The pin LINT1 of all local APICs.
    pub fn lint1(self: &Arc<Self>) -> InputPin {
        InputPin::new(Arc::clone(self) as Arc<dyn WireTarget>, 1)
    }

    /// Carries a message to whom it may concern. The caller holds no local APIC's lock.
    pub fn deliver(&self, message: Message) {
        let Message { destination, mode, vector, level_triggered } = message;
        let addressed = |apic: &&Arc<LocalApic>| match destination {
            Destination::Physical(id) => apic.id() == id,
            Destination::Logical(logical) => apic.routing().includes(apic.id(), logical),
            Destination::All => true,
            Destination::AllBut(id) => apic.id() != id,
        };
        if let Destination::Physical(id) = destination {
            let apic = usize::try_from(id).ok().and_then(|id| self.apics.get(id));
            if let Some(apic) = apic {
                apic.accept(mode, vector, level_triggered);
            }
        } else if mode == DeliveryMode::LowestPriority {
            let addressed = self.apics.iter().filter(addressed);
            let apic = addressed.filter(|apic| apic.accepts_vectors());
            if let Some(apic) = apic.min_by_key(|apic| apic.processor_priority()) {
                apic.accept(mode, vector, level_triggered);
            }
        } else {
            let addressed = self.apics.iter().filter(addressed);
            addressed.for_each(|apic| apic.accept(mode, vector, level_triggered));
        }
    }

    /// Fetches a vector from the 8259s. The caller holds no local APIC's lock.
    pub(super) fn acknowledge_pic(&self) -> Option<u8> {
        let pic = self.pic.get()?.upgrade()?;
        crate::lock(&pic).acknowledge()
    }

    /// Tells the I/O APIC. The caller holds no local APIC's lock.
    pub(super) fn end_of_interrupt(&self, vector: u8) {
        if let Some(io_apic) = self.io_apic.get().and_then(Weak::upgrade) {
            io_apic.end_of_interrupt(vector);
        }
    }
}

impl WireTarget for InterruptFabric {
    fn set_level(&self, line: u32, level: bool) {
        for apic in &self.apics {
            apic.set_pin(line as usize, level);
        }
    }
}

impl MsiTarget for InterruptFabric {
    /// SDM vol. 3, "Message signalled interrupts".
    fn signal(&self, address: u64, data: u32) {
        if address >> 20 != 0xfee {
            return;
        }
        let logical = address & 1 << 2 != 0;
        let Some(mode) = DeliveryMode::from_field(data >> 8 & 7) else { return };
        let level_triggered = data & 1 << 15 != 0;
        if level_triggered && data & 1 << 14 == 0 {
            // The message that a level was taken back.
            return;
        }
        self.deliver(Message {
            destination: Destination::from_field((address >> 12) as u8, logical),
            mode,
            vector: data as u8,
            level_triggered,
        });
    }
}
