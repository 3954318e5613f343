//! The loop between blocks: what runs next, found or translated now.

use crate::apart::Run;
use crate::build::{self, NoBlock, Source};
use crate::cache::Cache;
use crate::cold::ColdPlaces;
use crate::compat::{is_flat32, unlimited};
use crate::counts;
use crate::emit::Code;
use crate::exits::Next;
use crate::key::{Key, Place};
use crate::layout::{Head, SetLayout, Slots};
use crate::native::SharedHead;
use crate::options::{Options, TranslatorError};
use crate::perf_map::PerfMap;
use crate::second;
use crate::seeing::{has_fast_pext, is_upper};
use crate::spaces::{Spaces, Views};
use crate::statistics::Statistics;
use crate::stubs::{self, Stubs};
use ambos_hostcode::arena::Region;
use ambos_hostcode::guard::GuardedArea;
use ambos_hostcode::{Arena, Windows, mem, signals};
use ambos_interpret::Cpu;
use ambos_interpret::blocks::{self, BlockCache};
use ambos_interpret::cpu::RIP;
use ambos_interpret::exec::native::Class;
use ambos_interpret::fetch::CodePage;
use ambos_interpret::mmu::{BANK_WINDOW, BANKS, GUARD_MASK, SETS, Tlb, VIEW_MASK};
use ambos_memory::GuestRam;
use ambos_vcpu::{Attention, Control, CpuState, Engine, Platform, Request, Stop};
use ambos_x86::{Cr4, Efer, gpr, xstate};
use std::collections::HashSet;
use std::sync::Arc;

/// What part of the code cache's size what is known of code may take besides. It takes about a quarter of what the code
/// itself does; a guest with many pages of little code must not have it outgrow that.
const MOST_KNOWN: usize = 4;

/// The bit of modes whose code reaches operands through views.
const VIEWS: u32 = 1 << 27;
/// The bit, besides, of modes where all that is seen is at one distance.
const EVEN: u32 = 1 << 26;
/// The bit, in keys of blocks only, of code that lies at that distance itself.
const CODE_SEEN: u32 = 1 << 25;

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
    stubs_size: usize,
    pub(crate) sets: [SetLayout; SETS],
    pub(crate) gate: u32,

    // Book-keeping.
    perf_map: Option<PerfMap>,
    pub(crate) cache: Cache,
    cold: ColdPlaces,
    pub(crate) statistics: Statistics,
    /// The mode for which each jump cache is filled.
    jump_modes: [[u32; SETS]; BANKS],
    /// In which banks jump caches may lead to code that reaches operands through views.
    seeing: [bool; BANKS],
    /// Control registers and the permissions computed from them.
    permissions: ([u64; 4], u32),
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

    /// The mode that code is translated for, or `None` where it is not translated.
    #[inline]
    pub(crate) fn mode(&mut self) -> Option<u32> {
        let cpu = &self.head.cpu;
        let wide = cpu.is_64bit();
        // Looking on at 32-bit code is not provided for.
        if cpu.mmu_index >= SETS || !wide && (self.options.apart || !is_flat32(cpu)) {
            return None;
        }
        let Control { cr0, cr4, xcr0, efer, .. } = cpu.control;
        let [cr0_then, cr4_then, xcr0_then, efer_then] = self.permissions.0;
        // One by one: put together first and compared at once, they would wait for their way through memory.
        if (cr0 ^ cr0_then) | (cr4 ^ cr4_then) | (xcr0 ^ xcr0_then) | (efer ^ efer_then) != 0 {
            let bit = |class, bit: u32| u32::from(cpu.check_class(class).is_ok()) << bit;
            let bits = bit(Class::Sse, 0)
                | bit(Class::Avx, 1)
                | bit(Class::Avx512, 2)
                | u32::from(cpu.cr4().contains(Cr4::TSD)) << 3
                | u32::from(cpu.cr4().contains(Cr4::SMAP)) << 4
                | u32::from(cpu.cr4().contains(Cr4::FSGSBASE)) << 5
                | u32::from(cpu.efer().contains(Efer::SCE)) << 6
                | bit(Class::X87, 7)
                | bit(Class::Mmx, 8)
                | bit(Class::Wait, 9);
            self.permissions = ([cr0, cr4, xcr0, efer], bits);
        }
        let root = cpu.control.cr3;
        if self.spaces.root != root {
            self.spaces.switch(root, cpu.tlb.sees_some_of(root));
        }
        let narrow = match wide {
            true => 0,
            false => {
                let [fs, gs] = unlimited(cpu).map(u32::from);
                1 << 30 | fs << 29 | gs << 28
            }
        };
        let mode = self.mode_with(self.head.cpu.mode.cpl, self.head.cpu.mmu_index);
        Some(if wide { mode } else { mode & !(VIEWS | EVEN) | narrow })
    }

    /// The mode of a privilege level and set, with the permissions as they are.
    fn mode_with(&self, cpl: u8, set: usize) -> u32 {
        let views = match set == Tlb::USER && self.spaces.viewed {
            true if self.head.cpu.tlb.sees_evenly() => VIEWS | EVEN,
            true => VIEWS,
            false => 0,
        };
        self.permissions.1 << 4 | u32::from(cpl) << 2 | set as u32 | 1 << 31 | views
    }

    /// Sees to it that translated code finds only what fits in the jump caches of sets that it may change
    /// to by itself.
    #[inline]
    fn prepare_sets(&mut self, bank: usize) {
        if !self.head.cpu.is_64bit() {
            return;
        }
        for (set, cpl) in [(Tlb::SUPERVISOR, 0), (Tlb::USER, 3), (Tlb::SUPERVISOR_AC, 0)] {
            let mode = self.mode_with(cpl, set);
            if self.jump_modes[bank][set] != mode && set != self.head.cpu.mmu_index {
                self.jump_modes[bank][set] = mode;
                self.head.cpu.tlb.clear_jumps(set);
            }
        }
    }

    /// The block at the instruction pointer, if it is translated or becomes so now.
    pub(crate) fn find(&mut self, platform: &mut dyn Platform) -> Option<u32> {
        let mut mode = self.mode()?;
        if mode & VIEWS != 0 && self.prepare_view() {
            mode = self.mode()?;
        }
        let rip = self.head.cpu.native.gpr[RIP];
        if mode & EVEN != 0 && Tlb::is_seen_evenly(rip) {
            mode |= CODE_SEEN;
        }
        let Ok(page) = self.head.cpu.code_page(platform, rip) else { return None };
        // Programs are mapped where they are wanted; of a kernel, a page has one address.
        let program = self.head.cpu.mode.cpl == 3 && !is_upper(rip);
        let absolute = !program || !self.head.cpu.is_64bit();
        let key = Key {
            linear_page: if absolute { rip & !0xfff } else { 0 },
            ram_page: u32::try_from(page.ram_page).ok()?,
            mode,
            tail: 0,
            offset: (rip & 0xfff) as u16,
            absolute,
            groups: !std::mem::take(&mut self.ungrouped),
        };
        match self.cache.get(key) {
            Some(Place::Block(block)) => return Some(block),
            Some(Place::Straddles) => return self.find_straddling(platform, key, page),
            Some(Place::Never) => return None,
            None => {}
        }
        let plain = without_views(key);
        let known = plain != key && matches!(self.cache.get(plain), Some(Place::Block(_)));
        if key.groups && !known && !self.cold.is_due(&key, self.options.threshold) {
            return None;
        }
        let version = self.watch(platform, page);
        self.translate(key, &[(page, version)])
    }

    /// The block of one instruction at the instruction pointer that ends in the next page.
    fn find_straddling(
        &mut self,
        platform: &mut dyn Platform,
        key: Key,
        page: CodePage,
    ) -> Option<u32> {
        let next = (self.head.cpu.native.gpr[RIP] & !0xfff).wrapping_add(0x1000);
        let next = self.head.cpu.mask_rip(next);
        // The interpreter raises the fault of the fetch.
        let Ok(tail) = self.head.cpu.code_page(platform, next) else { return None };
        let key = Key { tail: u32::try_from(tail.ram_page + 1).ok()?, ..key };
        match self.cache.get(key) {
            Some(Place::Block(block)) => Some(block),
            Some(_) => None,
            None => {
                let pages =
                    [(page, self.watch(platform, page)), (tail, self.watch(platform, tail))];
                self.translate(key, &pages)
            }
        }
    }

    /// Sees to it that writes to a page are noticed: only then may code be made of its bytes. Returns the
    /// code version that such code is of.
    fn watch(&mut self, platform: &mut dyn Platform, page: CodePage) -> u32 {
        let version = self.head.cpu.watch_page(platform, page);
        if self.cache.is_outdated(page.ram_page, version) {
            self.invalidate(page.ram_page);
        }
        version
    }

    /// Translates the block at the instruction pointer. Of two pages the second holds the end of its one
    /// instruction.
    fn translate(&mut self, key: Key, pages: &[(CodePage, u32)]) -> Option<u32> {
        const TAIL: usize = 15;
        let mut bytes = [0; 0x1000 + TAIL];
        for (index, (page, _)) in pages.iter().take(2).enumerate() {
            let (start, end) = if index == 0 { (0, 0x1000) } else { (0x1000, 0x1000 + TAIL) };
            #[expect(unsafe_code, reason = "guest RAM is shared with other vCPUs")]
            // SAFETY: `host_page` is a mapped page of guest RAM, and at most a page is copied.
            unsafe {
                mem::copy_words_from(page.host_page, &mut bytes[start..end]);
            }
        }
        let bytes = if pages.len() > 1 { &bytes[..] } else { &bytes[..0x1000] };
        let versions: Vec<u32> = pages.iter().map(|&(_, version)| version).collect();
        if self.cache.is_full(self.options.code_cache / MOST_KNOWN) {
            self.flush();
        }
        for attempt in 0..2 {
            let (cache, cold_places, threshold) = (&self.cache, &self.cold, self.options.threshold);
            // Where there are no views, blocks were made of what the interpreter saw.
            let plain = without_views(key);
            let path: Vec<u16> = match cache.get(plain) {
                Some(Place::Block(block)) if plain != key => {
                    cache.block(block).records().guest_offsets().collect()
                }
                _ => Vec::new(),
            };
            let likely = |target: u16, next: u16| {
                let weight = |offset: u16| {
                    let key = Key { offset, groups: true, ..key };
                    match cache.get(key) {
                        Some(Place::Block(_)) => threshold,
                        _ => cold_places.count(&key),
                    }
                };
                weight(target) > threshold / 2 && weight(target) > 4 * weight(next)
            };
            let linked = |target: u16, [backward, held]: [bool; 2]| {
                let there = Key { offset: target, groups: true, ..key };
                let Some(Place::Block(next)) = cache.get(there) else {
                    return None;
                };
                match backward {
                    true => cache.polling(next, held),
                    false => Some(cache.body(next, held)),
                }
            };
            let source = Source {
                page: bytes,
                linear: self.head.cpu.native.gpr[RIP],
                absolute: key.absolute,
                block: self.cache.len(),
                gate: self.gate,
                narrow: !self.head.cpu.is_64bit(),
                unlimited: unlimited(&self.head.cpu),
                groups: key.groups,
                views: key.mode & VIEWS != 0
                    && key.groups
                    && key.tail == 0
                    && !is_upper(self.head.cpu.native.gpr[RIP]),
                even: key.mode & EVEN != 0,
                code_seen: key.mode & CODE_SEEN != 0,
                links: !self.options.apart && self.cache.numbers.has_left(self.head.cpu.mmu_index),
                linked: if key.tail != 0 { &|_, _| None } else { &linked },
                likely: &likely,
                path: &path,
                apart: self.options.apart,
            };
            let [start, cold_start] = Region::ALL.map(|region| self.arena.next(region) as u64);
            let [code, cold] = &mut self.code.0;
            code.start(start);
            cold.start(cold_start);
            let built = build::build(
                [code, cold],
                &mut self.head.cpu,
                &mut self.statistics,
                &self.stubs,
                &self.sets,
                &source,
            );
            let built = match built {
                Ok(built) => built,
                Err(why) => {
                    let place = match why {
                        NoBlock::Straddles => Place::Straddles,
                        NoBlock::Undefined => Place::Never,
                    };
                    self.cache.add_place(key, &versions, place);
                    return None;
                }
            };
            let [length, cold_length] = self.code.0.each_ref().map(|code| code.bytes.len());
            if self.arena.has_room([length, cold_length]) {
                for (region, code) in Region::ALL.into_iter().zip(&self.code.0) {
                    self.arena.push(region, &code.bytes);
                }
                self.statistics.blocks += 1;
                let gpa =
                    pages.first().map_or(0, |(page, _)| page.gpa_page) | u64::from(key.offset);
                let decoded = blocks::key(gpa, self.head.cpu.mode.key());
                self.head.cpu.blocks.forget(decoded);
                self.statistics.instructions += u64::from(built.instructions);
                self.statistics.guest_bytes += u64::from(built.guest_bytes);
                self.statistics.host_bytes += (length + cold_length) as u64;
                if let Some(map) = &mut self.perf_map {
                    map.add(start, length, source.linear);
                    map.add(cold_start, cold_length, source.linear);
                }
                let (place, apart) = ((start, length), self.options.apart);
                return Some(self.cache.add(key, &versions, place, built, apart));
            }
            if attempt == 0 {
                self.flush();
            }
        }
        None
    }

    /// Drops all translated code.
    pub(crate) fn flush(&mut self) {
        self.statistics.flushes += 1;
        self.cache.clear(self.arena.start() as u64);
        self.arena.truncate(self.stubs_size);
        self.head.cpu.tlb.clear_all_jumps();
        self.detours.clear();
    }

    fn invalidate(&mut self, ram_page: usize) {
        let (dropped, numbers) =
            self.cache.invalidate(&mut self.arena, self.stubs.second.barred, ram_page);
        for (set, number) in numbers {
            self.head.cpu.tlb.forget_code_page(set, number);
            self.unlink_far(set, number);
        }
        // Jump caches may go on leading to them: their entries lead out.
        self.statistics.invalidated += dropped;
    }

    /// Drops blocks whose guest code was written to.
    #[inline]
    pub(crate) fn keep_current(&mut self) {
        let epoch = self.head.cpu.ram.page_flags().epoch();
        if epoch != self.head.slots.epoch {
            self.drop_changed(epoch);
        }
    }

    #[cold]
    fn drop_changed(&mut self, epoch: u64) {
        let own = std::mem::take(&mut self.head.cpu.code_writes);
        let by_others = epoch.wrapping_sub(self.head.slots.epoch) != own.len() as u64;
        self.head.slots.epoch = epoch;
        for ram_page in own {
            self.invalidate(ram_page);
        }
        if by_others {
            let ram = Arc::clone(&self.head.cpu.ram);
            for ram_page in self.cache.changed_pages(|page| ram.page_flags().version(page)) {
                self.invalidate(ram_page);
            }
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
        self.head.slots.vectors_held = 0;
        let set = self.head.cpu.mmu_index;
        let bank = self.head.cpu.tlb.current_bank();
        let rip = self.head.cpu.native.gpr[RIP];
        let block = self.cache.block(block);
        let (external, Key { mode, tail, groups, .. }) = (block.start, block.key());
        let mode = mode & !CODE_SEEN;
        if mode & VIEWS != 0 {
            self.seeing[bank] = true;
            self.head.slots.sees = 1;
        }
        let code_page = block.variant.code_page();
        if self.options.apart || !groups {
            self.head.slots.scratch[0] = rip;
            return external;
        }
        if self.jump_modes[bank][set] != mode {
            self.jump_modes[bank][set] = mode;
            self.head.cpu.tlb.clear_jumps(set);
        }
        self.head.cpu.tlb.set_jump(set, rip, tail != 0, external as usize, code_page);
        self.head.slots.scratch[0] = rip;
        external
    }

    /// Lets a run of translated code begin without views, for which entries and exits need not change the base of FS, some
    /// twenty nanoseconds.
    ///
    /// Code that reaches operands through views would reach the monitor's memory without. It begins to run in a bank
    /// only if [`Translator::enter_from_anywhere`] has been asked for such a block there: in this run, or before, and then
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
        self.give_state();
        self.head.slots.x87_held = 0;
        self.see_nothing();
        let mut pc = self.enter_from_anywhere(block);
        if !self.head.cpu.attention.pending().is_empty() {
            // What wants attention cannot be served yet: go on without polling for it.
            pc = self.cache.block(block).entries().body;
            self.head.slots.code_base = self.head.cpu.native.gpr[RIP] & !0xfff;
        }
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

/// What code of the same place without views is found by.
fn without_views(key: Key) -> Key {
    Key { mode: key.mode & !(VIEWS | EVEN | CODE_SEEN), ..key }
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
