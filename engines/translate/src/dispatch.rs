//! The loop between blocks: what runs next, found or translated now.

use crate::apart::Run;
use crate::cache::Cache;
use crate::cold::ColdPlaces;
use crate::counts;
use crate::emit::Code;
use crate::exits::Next;
use crate::finding::{CODE_SEEN, VIEWS};
use crate::key::Key;
use crate::layout::{Head, SetLayout, Slots};
use crate::native::SharedHead;
use crate::options::{Options, TranslatorError};
use crate::perf_map::PerfMap;
use crate::second;
use crate::seeing::has_fast_pext;
use crate::spaces::{Spaces, Views};
use crate::statistics::Statistics;
use crate::stubs::{self, Stubs};
use ambos_hostcode::arena::Region;
use ambos_hostcode::guard::GuardedArea;
use ambos_hostcode::{Arena, Windows, signals};
use ambos_interpret::Cpu;
use ambos_interpret::blocks::BlockCache;
use ambos_interpret::cpu::RIP;
use ambos_interpret::mmu::{BANK_WINDOW, BANKS, GUARD_MASK, SETS, Tlb, VIEW_MASK};
use ambos_memory::GuestRam;
use ambos_vcpu::{Attention, CpuState, Engine, Platform, Request, Stop};
use ambos_x86::{gpr, xstate};
use std::collections::HashSet;
use std::sync::Arc;

/// Most instructions that are kept decoded for the interpreter, which runs what is not run often. Three times as many
/// save one decoding in five while a guest boots.
const MAX_DECODED: usize = 32 << 10;

/// One vCPU that translates.
#[derive(Debug)]
pub struct Translator {
    // Configuration.
    pub(crate) options: Options,
    pub(crate) stubs: Stubs,
    /// Bytes of the stubs in the arena.
    pub(crate) stubs_size: usize,
    pub(crate) sets: [SetLayout; SETS],
    pub(crate) gate: u32,

    // Book-keeping.
    pub(crate) perf_map: Option<PerfMap>,
    pub(crate) cache: Cache,
    pub(crate) cold: ColdPlaces,
    pub(crate) statistics: Statistics,
    /// The mode for which each jump cache is filled.
    pub(crate) jump_modes: [[u32; SETS]; BANKS],
    /// In which banks jump caches may lead to code that reaches operands through views.
    seeing: [bool; BANKS],
    /// Control registers and the permissions computed from them.
    pub(crate) permissions: ([u64; 4], u32),
    /// Which address spaces have views.
    pub(crate) spaces: Spaces,
    /// A page that the guest is to map: its program comes back to it.
    pub(crate) awaited: Option<u64>,
    /// What a run of one block did, where blocks run apart.
    pub(crate) run: Run,
    /// Sites of jumps to other pages that look into the jump cache.
    pub(crate) detours: HashSet<u32>,
    /// The next block to be found is one whose operands do not share probes.
    pub(crate) ungrouped: bool,

    // Dependencies.
    _guard: GuardedArea,
    pub(crate) arena: Arena,
    pub(crate) head: SharedHead,
    pub(crate) code: CodeBuffer,
}

/// The buffers that blocks are built in: for the straight path, and for what lies off it.
pub(crate) struct CodeBuffer(pub(crate) [Code; 2]);

impl std::fmt::Debug for CodeBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeBuffer")
    }
}

impl Translator {
    /// A vCPU in its reset state. It must stay on the thread that runs it first.
    ///
    /// # Errors
    ///
    /// [`TranslatorError`] if the host lacks what generated code needs.
    pub fn new(
        ram: Arc<GuestRam>,
        attention: Arc<Attention>,
        options: Options,
    ) -> Result<Self, TranslatorError> {
        if !std::is_x86_feature_detected!("bmi2") {
            return Err(TranslatorError::Host("the BMI2 instructions"));
        }
        if !std::is_x86_feature_detected!("xsave") {
            return Err(TranslatorError::Host("the XSAVE instructions"));
        }
        if !signals::has_segment_base_instructions() {
            return Err(TranslatorError::Host("the FSGSBASE instructions"));
        }
        let windows = Arc::new(Windows::new(size_of::<Head>(), BANK_WINDOW, BANKS)?);
        let Some(gate) = attention.gate() else {
            return Err(TranslatorError::Host("memory below 2 GiB"));
        };
        let mut cpu = Cpu::new(ram, attention)?;
        cpu.blocks = BlockCache::bounded(MAX_DECODED);
        cpu.tlb = Box::new(Tlb::in_windows(Arc::clone(&windows)));
        if options.user_first {
            cpu.tlb.put_user_first();
        }
        let slots = Slots {
            bit_index: [7, 15, 31, 63],
            view_mask: VIEW_MASK,
            guard_mask: GUARD_MASK,
            host_mxcsr: xstate::MXCSR_RESET,
            epoch_at: cpu.ram.page_flags().epoch_address() as u64,
            ..Slots::default()
        };
        let mut head = SharedHead::new(Head { slots, cpu }, windows);
        let mut arena = Arena::divided(options.code_cache.max(1 << 20))?;
        let mut code = Code::new();
        code.start(arena.next(Region::Hot) as u64);
        let sets = std::array::from_fn(|set| SetLayout::new(set, head.cpu.tlb.place(set)));
        let views = match options.views {
            Views::Auto if !has_fast_pext() => Views::Never,
            Views::Never => Views::Never,
            _ if options.apart || !head.cpu.tlb.reserve_views() => Views::Never,
            views => views,
        };
        let stubs = stubs::generate(&mut code, &sets, gate, views != Views::Never);
        head.cpu.tlb.bar_jumps(stubs.second.barred as usize);
        if arena.push(Region::Hot, &code.bytes).is_none() {
            return Err(TranslatorError::Areas);
        }
        // Code that says where to go on writes the lower half only.
        head.slots.found = arena.start() as u64;
        head.slots.upper_half = arena.start() as u64 >> 32 << 32;
        head.slots.frame.recover = stubs.fault as usize;
        #[expect(unsafe_code, reason = "faults of generated code come back through its frame")]
        // SAFETY: the frame lies in the head, which outlives the guard (fields are dropped in order)
        // and is not accessed while code of the arena runs; the fault stub resumes from any state.
        let guard = unsafe {
            GuardedArea::with_frame(arena.start(), arena.size(), &raw mut head.slots.frame)
        };
        let guard = guard.ok_or(TranslatorError::Areas)?;
        let perf_map = match options.perf_map {
            true => Some(PerfMap::open().map_err(TranslatorError::PerfMap)?),
            false => None,
        };
        Ok(Self {
            options,
            perf_map,
            stubs,
            stubs_size: arena.used(Region::Hot),
            sets,
            gate,
            cache: Cache::new(arena.start() as u64),
            cold: ColdPlaces::default(),
            statistics: Statistics::default(),
            jump_modes: [[0; SETS]; BANKS],
            seeing: [false; BANKS],
            permissions: ([u64::MAX; 4], 0),
            spaces: Spaces::new(views),
            awaited: None,
            run: Run::default(),
            detours: HashSet::new(),
            ungrouped: false,
            _guard: guard,
            arena,
            head,
            code: CodeBuffer([code, Code::new()]),
        })
    }

    /// What the translator did so far.
    pub fn statistics(&self) -> Statistics {
        let detours = self.detours.capacity() * (size_of::<u32>() + 1);
        Statistics {
            code_bytes: Region::ALL.map(|region| self.arena.used(region) as u64).iter().sum(),
            table_bytes: (self.cache.size() + detours) as u64,
            ..self.statistics
        }
    }

    /// Whether the guest can go on without a look at what is to be done. An interrupt that the guest
    /// does not take now is nothing to do.
    #[inline]
    pub(crate) fn undisturbed(&self) -> bool {
        let pending = self.head.cpu.attention.pending();
        let masked = pending == Request::INTERRUPT && !self.interrupts_enabled();
        !self.head.cpu.slow && (pending.is_empty() || masked)
    }

    /// Enters translated code at `pc`; returns the site where it left.
    fn execute(&mut self, pc: u64) -> u32 {
        self.statistics.entries += 1;
        self.head.slots.target = pc;
        let bank = self.head.cpu.tlb.current_bank();
        self.prepare_view();
        self.prepare_sets(bank);
        if self.spaces.viewed || self.seeing[bank] {
            self.head.slots.sees = 1;
        }
        debug_assert!(
            self.sees_for(self.cache.block_at(pc)),
            "code with views needs their distance"
        );
        self.head.cpu.attention.open_gate(second::OPEN);
        self.head.enter(self.stubs.enter, bank);
        self.head.slots.site as u32
    }

    /// Takes the flags from where an exit left them.
    pub(crate) fn take_flags(&mut self) {
        let word = self.head.slots.flags;
        self.set_arithmetic_flags(word);
    }

    pub(crate) fn set_arithmetic_flags(&mut self, word: u64) {
        let arithmetic = word >> 8 & 0xd5 | (word & 1) << 11;
        let rflags = &mut self.head.cpu.native.rflags;
        *rflags = *rflags & !0x8d5 | arithmetic;
    }

    /// Makes the state of the vCPU that of translated code.
    fn give_state(&mut self) {
        let rflags = self.head.cpu.native.rflags;
        let flags = rflags >> 11 & 1 | (rflags & 0xd5 | 2) << 8;
        self.head.slots.flags = flags;
        // An entry from anywhere looks for them here.
        self.head.slots.kept_flags = flags;
        let gpr = &self.head.cpu.native.gpr;
        self.head.slots.scratch = [gpr[gpr::R10], gpr[gpr::R11]];
    }

    /// The linear address of the page that a block runs in.
    pub(crate) fn page_of(&self, block: u32) -> u64 {
        self.cache.block(block).linear_page().unwrap_or(self.head.slots.code_base)
    }

    /// The entry of the block at the instruction pointer for code that came through a jump cache,
    /// which remembers it.
    pub(crate) fn enter_from_anywhere(&mut self, block: u32) -> u64 {
        let set = self.head.cpu.mmu_index;
        let bank = self.head.cpu.tlb.current_bank();
        let rip = self.head.cpu.native.gpr[RIP];
        let block = self.cache.block(block);
        let (external, Key { mode, tail, groups, .. }) = (block.start, block.key());
        let mode = mode & !CODE_SEEN;
        let code_page = block.variant.code_page();
        self.arrive_from_anywhere(mode);
        if self.options.apart || !groups {
            return external;
        }
        if self.jump_modes[bank][set] != mode {
            self.jump_modes[bank][set] = mode;
            self.head.cpu.tlb.clear_jumps(set);
        }
        self.head.cpu.tlb.set_jump(set, rip, tail != 0, external as usize, code_page);
        external
    }

    /// The mode and the entry of the block at the instruction pointer if the jump cache in use has it: most often, code goes
    /// on where it has gone on before. Nothing must want attention.
    #[inline]
    fn known_entry(&mut self) -> Option<(u32, u64)> {
        let cpu = &self.head.cpu;
        let pending = !cpu.attention.pending().is_empty();
        if pending
            || self.ungrouped
            || self.awaited.is_some()
            || self.options.apart
            || !cpu.is_64bit()
        {
            return None;
        }
        let mode = self.mode()?;
        let cpu = &self.head.cpu;
        let (bank, set) = (cpu.tlb.current_bank(), cpu.mmu_index);
        let prepared = mode & VIEWS == 0 || cpu.tlb.is_prepared(self.spaces.root);
        if self.jump_modes[bank][set] != mode || !prepared {
            return None;
        }
        let entry = cpu.tlb.lookup_jump(set, cpu.native.gpr[RIP])?;
        Some((mode, entry as u64))
    }

    /// Prepares for an entry from anywhere, at the instruction pointer, of code of a mode, which may reach operands through
    /// views.
    fn arrive_from_anywhere(&mut self, mode: u32) {
        self.head.slots.vectors_held = 0;
        self.head.slots.scratch[0] = self.head.cpu.native.gpr[RIP];
        if mode & VIEWS != 0 {
            self.seeing[self.head.cpu.tlb.current_bank()] = true;
            self.head.slots.sees = 1;
        }
    }

    /// Lets a run of translated code begin without views, for which entries and exits need not change the base of FS, some
    /// twenty nanoseconds.
    ///
    /// Code that reaches operands through views would reach the monitor's memory without. It begins to run in a bank
    /// only if [`Translator::arrive_from_anywhere`] has been told of such a mode there: in this run, or before, and then
    /// the jump caches of the bank are filled for a mode with views, until they are emptied for one without. Once there is
    /// such code in a run, there is until its end, however banks change.
    fn see_nothing(&mut self) {
        let bank = self.head.cpu.tlb.current_bank();
        if self.seeing[bank] && self.jump_modes[bank].iter().all(|mode| mode & VIEWS == 0) {
            self.seeing[bank] = false;
        }
        self.head.slots.sees = 0;
    }

    /// Whether the block may run as entries and exits are now.
    pub(crate) fn sees_for(&self, block: Option<u32>) -> bool {
        let views = block.is_some_and(|block| self.cache.block(block).key().mode & VIEWS != 0);
        self.head.slots.sees != 0 || !views
    }

    /// Runs translated code from the block `block` at the instruction pointer until it wants a
    /// look at what is to be done.
    pub(crate) fn run_translated(
        &mut self,
        platform: &mut dyn Platform,
        block: u32,
    ) -> Option<Stop> {
        if self.awaited.is_some() {
            self.see_awaited(platform);
        }
        self.begin_run();
        let mut pc = self.enter_from_anywhere(block);
        if !self.head.cpu.attention.pending().is_empty() {
            // What wants attention cannot be served yet: go on without polling for it.
            pc = self.cache.block(block).entries().body;
            self.head.slots.code_base = self.head.cpu.native.gpr[RIP] & !0xfff;
        }
        self.run_from(platform, pc)
    }

    fn begin_run(&mut self) {
        self.give_state();
        self.head.slots.x87_held = 0;
        self.see_nothing();
    }

    /// The same from an entry of code.
    fn run_from(&mut self, platform: &mut dyn Platform, mut pc: u64) -> Option<Stop> {
        let stop = loop {
            let site = self.execute(pc);
            match self.serve(platform, site) {
                Next::Continue(next) => pc = next,
                Next::Resume(next) => {
                    self.give_state();
                    pc = next;
                }
                Next::Boundary => break None,
                Next::Stop(stop) => break Some(stop),
            }
        };
        counts::hand_over(&mut self.head.slots.counts, platform.ledger());
        stop
    }
}

impl Engine for Translator {
    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.statistics().table().to_vec()
    }

    fn state(&self) -> CpuState {
        self.head.cpu.save_state()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.head.cpu.load_state(state);
    }

    fn flush_translations(&mut self) {
        self.head.cpu.flush_translations();
    }

    fn deprivilege(&mut self) {
        self.head.cpu.begin_supervised();
    }

    fn run(&mut self, platform: &mut dyn Platform, budget: Option<u64>) -> Stop {
        if budget.is_some() || signals::prepare_thread().is_err() {
            return self.head.cpu.run(platform, budget);
        }
        loop {
            if !self.undisturbed() {
                if !self.head.cpu.attention.pending().is_empty() {
                    self.consider_views();
                }
                if let Some(stop) = self.head.cpu.look_up(platform) {
                    return stop;
                }
                if self.head.cpu.slow {
                    if let Some(stop) = self.head.cpu.step_slowly(platform) {
                        return stop;
                    }
                    continue;
                }
            }
            self.keep_current();
            if let Some((mode, entry)) = self.known_entry() {
                self.begin_run();
                self.arrive_from_anywhere(mode);
                if let Some(stop) = self.run_from(platform, entry) {
                    return stop;
                }
                continue;
            }
            let stop = match self.find(platform) {
                Some(block) => self.run_translated(platform, block),
                None => {
                    self.statistics.cold_blocks += 1;
                    self.head.cpu.run_block(platform, usize::MAX)
                }
            };
            if let Some(stop) = stop {
                return stop;
            }
        }
    }

    fn interrupts_enabled(&self) -> bool {
        self.head.cpu.interrupts_enabled()
    }

    fn instructions(&self) -> u64 {
        self.head.cpu.instructions
    }
}
