//! The engine.

use crate::difference::{self, Difference};
use crate::record::{Player, Recorder};
use ambos_interpret::Cpu;
use ambos_interpret::cpu::RIP;
use ambos_interpret::mmu::{JournalPage, change_page, page_bytes};
use ambos_memory::GuestRam;
use ambos_translate::{Apart, Interpreted, Options, Translator, TranslatorError};
use ambos_vcpu::{Attention, CpuState, Engine, Platform, Stop};
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::collections::VecDeque;
use std::sync::Arc;

/// Arithmetic flags.
const ARITHMETIC: u64 = 0x8d5;

/// IA32_TSC.
const IA32_TSC: u32 = 0x10;

/// What became of the comparisons.
#[derive(Debug, Default)]
struct Counts {
    compared: u64,
    passed_over: u64,
    /// Comparisons that held only after translations had been dropped.
    repeated: u64,
}

/// One vCPU that translates and checks itself.
#[derive(Debug)]
pub struct Verifier {
    translator: Translator,
    /// How often each block ran; valid for the code cache's present filling.
    runs: Vec<u32>,
    fillings: u64,
    counts: Counts,
}

/// What the translated run came to.
struct Translated {
    apart: Apart,
    state: CpuState,
    pages: Vec<JournalPage>,
    /// What the pages held after it.
    after: Vec<Box<[u8; 0x1000]>>,
    events: VecDeque<crate::record::Event>,
    /// Whether it ran to the block's end.
    complete: bool,
    /// Linear addresses of the instructions that ran.
    code: Vec<u64>,
    /// Instructions that give another result each time, with their lengths.
    unsteady: Vec<(Interpreted, u64)>,
}

impl Verifier {
    /// Runs of each block that are all compared.
    pub const ALWAYS: u32 = 32;
    /// Every which run is compared after those.
    pub const OFTEN: u32 = 61;
    /// How often a block that seems to be wrong is run again.
    const REPEATS: u32 = 3;

    /// A vCPU in its reset state. It must stay on the thread that runs it first.
    ///
    /// # Errors
    ///
    /// [`TranslatorError`] as for the translator.
    pub fn new(ram: Arc<GuestRam>, attention: Arc<Attention>) -> Result<Self, TranslatorError> {
        let options = Options { threshold: 2, apart: true, ..Options::default() };
        Self::with_options(ram, attention, options)
    }

    /// Like [`Verifier::new`] with a translator of other options; blocks run apart in any case.
    ///
    /// # Errors
    ///
    /// [`TranslatorError`] as for the translator.
    pub fn with_options(
        ram: Arc<GuestRam>,
        attention: Arc<Attention>,
        options: Options,
    ) -> Result<Self, TranslatorError> {
        let translator = Translator::new(ram, attention, Options { apart: true, ..options })?;
        Ok(Self { translator, runs: Vec::new(), fillings: 0, counts: Counts::default() })
    }

    /// Whether this run of `block` is compared.
    fn is_due(&mut self, block: u32) -> bool {
        let flushes = self.translator.statistics().flushes;
        if self.fillings != flushes {
            self.fillings = flushes;
            self.runs.clear();
        }
        let index = block as usize;
        if index >= self.runs.len() {
            self.runs.resize(index + 1, 0);
        }
        let runs = &mut self.runs[index];
        *runs = runs.wrapping_add(1);
        *runs <= Self::ALWAYS || runs.is_multiple_of(Self::OFTEN)
    }

    /// Runs a block both ways.
    fn compare(&mut self, platform: &mut dyn Platform, block: u32) -> Option<Stop> {
        let before = self.translator.cpu().save_state();
        let (instructions, events) = {
            let cpu = self.translator.cpu();
            (cpu.instructions, cpu.events)
        };
        let mut translated = match self.translated(platform, block, &before) {
            Ok(translated) => translated,
            Err(stop) => {
                self.counts.passed_over += 1;
                return stop;
            }
        };
        let counters = {
            let cpu = self.translator.cpu();
            (cpu.instructions, cpu.events)
        };
        self.counts.compared += 1;
        let mut found = self.reference(&before, &translated, events);
        if found.is_some() {
            // The block may have changed page tables that it was using itself.
            self.counts.repeated += 1;
            self.translator.cpu().tlb.flush_all();
            found = self.reference(&before, &translated, events);
        }
        // Another thread may have written to a page that the block wrote to. A wrong translation is wrong again.
        for _ in 0..Self::REPEATS {
            if found.is_none() || !translated.events.is_empty() {
                break;
            }
            self.counts.repeated += 1;
            let cpu = self.translator.cpu();
            cpu.rewind(&before);
            cpu.events = events;
            if let Ok(again) = self.translated(platform, block, &before) {
                found = self.reference(&before, &again, events);
            }
        }
        if let Some(difference) = found {
            let text = difference.describe(&self.translator, &before, &translated.state, block);
            return Some(Stop::Failed(text));
        }
        // The translated run's outcome counts: it is what would have happened.
        let cpu = self.translator.cpu();
        for (page, after) in translated.pages.iter().zip(&translated.after) {
            change_page(page.host_page, &page.before, after);
        }
        cpu.rewind(&translated.state);
        (cpu.instructions, cpu.events) = (counters.0.max(instructions), counters.1);
        translated.apart.stop.take()
    }

    /// Runs a block translated, from the state `before`, which the vCPU is in.
    ///
    /// # Errors
    ///
    /// Why it stopped, if what it did cannot be compared.
    fn translated(
        &mut self,
        platform: &mut dyn Platform,
        block: u32,
        before: &CpuState,
    ) -> Result<Translated, Option<Stop>> {
        self.translator.cpu().begin_journal();
        let mut recorder = Recorder { platform, events: VecDeque::new(), trapped: false };
        let apart = self.translator.run_apart(&mut recorder, block);
        let (events, trapped) = (recorder.events, recorder.trapped);
        let state = self.translator.cpu().save_state();
        // What a supervisor did cannot be done twice.
        if trapped || apart.last.is_none() || !is_comparable(before, &state) {
            return Err(apart.stop);
        }
        let pages = self.translator.cpu().take_journal_pages();
        let after = pages.iter().map(|page| page_bytes(page.host_page)).collect();
        let offsets = self.translator.explain(block).map(|code| code.0).unwrap_or_default();
        let complete = apart.complete;
        let ran = offsets.iter().take(apart.instructions);
        let code = ran.map(|&offset| before.rip & !0xfff | u64::from(offset)).collect();
        let cpu = self.translator.cpu();
        let unsteady = apart.interpreted.iter().filter_map(|done| unsteady(cpu, done)).collect();
        Ok(Translated { apart, state, pages, after, events, complete, code, unsteady })
    }

    /// Interprets from `before` what was run translated; returns how the outcomes differ.
    fn reference(
        &mut self,
        before: &CpuState,
        translated: &Translated,
        events: u64,
    ) -> Option<Difference> {
        let cpu = self.translator.cpu();
        for (page, after) in translated.pages.iter().zip(&translated.after) {
            change_page(page.host_page, after, &page.before);
        }
        cpu.rewind(before);
        cpu.events = events;
        cpu.begin_journal();
        let mut player = Player::new(translated.events.clone());
        let stop = interpret(cpu, &mut player, translated);
        let state = cpu.save_state();
        let faulted = cpu.events != events;
        let changed = (translated.state.rflags ^ state.rflags) & ARITHMETIC;
        let ignored = match (changed, faulted || !translated.complete) {
            (0, _) => 0,
            // What follows in the block may not need them; nobody else looks.
            (_, true) => ARITHMETIC,
            _ => {
                !translated.apart.needed.unwrap_or_else(|| needed_flags(cpu, state.rip))
                    | undefined_flags(cpu, &translated.code).unwrap_or_default()
            }
        };
        let mut differences = difference::states(&translated.state, &state, ignored & ARITHMETIC);
        if stop != translated.apart.stop {
            differences.push(format!("stop: {:?} and {stop:?}", translated.apart.stop));
        }
        if let Some(asked) = player.astray {
            differences.push(format!("the interpreter went astray: {asked}"));
        } else if let Some(event) = player.events.front() {
            differences.push(format!("the interpreter did not ask for {event:x?}"));
        }
        let own = cpu.take_journal_pages();
        // A delivered exception stores flags, of which some may be dead.
        let frame = faulted.then_some(&state);
        let missing = own
            .iter()
            .filter(|page| translated.pages.iter().all(|other| other.host_page != page.host_page))
            .map(|page| (page.host_page, &page.before));
        let known = translated.pages.iter().zip(&translated.after);
        for (host_page, expected) in
            known.map(|(page, after)| (page.host_page, after)).chain(missing)
        {
            let held = page_bytes(host_page);
            differences.extend(difference::pages(cpu, host_page, expected, &held, frame));
        }
        // Who repeats it begins with what there was.
        for page in &own {
            change_page(page.host_page, &page_bytes(page.host_page), &page.before);
        }
        if differences.is_empty() || undefined_flags(cpu, &translated.code).is_none() {
            return None;
        }
        Some(Difference { lines: differences, interpreted: state })
    }
}

/// Whether nothing happened that running the same code again would not repeat.
fn is_comparable(before: &CpuState, after: &CpuState) -> bool {
    let control = |state: &CpuState| ambos_vcpu::Control { cr2: 0, ..state.control };
    control(before) == control(after) && before.msrs.tsc_offset == after.msrs.tsc_offset
}

/// Interprets as many instructions as ran translated. Says what went wrong.
fn interpret(cpu: &mut Cpu, player: &mut Player, translated: &Translated) -> Option<Stop> {
    let count = translated.apart.instructions;
    if translated.unsteady.is_empty() {
        let (start, events) = (cpu.instructions, cpu.events);
        loop {
            let done = (cpu.instructions - start) as usize;
            if done >= count || cpu.events != events {
                return None;
            }
            if let Some(stop) = cpu.run_block(player, count - done) {
                return Some(stop);
            }
        }
    }
    let mut waiting = translated.unsteady.iter();
    let mut expected = waiting.next();
    let events = cpu.events;
    for _ in 0..count {
        let rip = cpu.native.gpr[RIP];
        if let Some((done, length)) = expected.filter(|(done, _)| done.rip == rip) {
            cpu.native.gpr[..16].copy_from_slice(&done.gpr);
            cpu.native.rflags = done.rflags;
            cpu.native.gpr[RIP] = rip.wrapping_add(*length);
            expected = waiting.next();
            continue;
        }
        if let Some(stop) = cpu.run_block(player, 1) {
            return Some(stop);
        }
        if cpu.events != events {
            break;
        }
    }
    None
}

/// The instruction with its length, if it gives another result each time.
fn unsteady(cpu: &Cpu, done: &Interpreted) -> Option<(Interpreted, u64)> {
    let bytes = cpu.code_bytes(done.rip);
    let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
    let unsteady = match instruction.mnemonic() {
        Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdrand | Mnemonic::Rdseed => true,
        // The time-stamp counter by another way.
        Mnemonic::Rdmsr => done.gpr[1] as u32 == IA32_TSC,
        _ => false,
    };
    unsteady.then_some((*done, instruction.len() as u64))
}

/// The arithmetic flags that the instructions at these addresses leave undefined; `None` if one of them
/// depends on flags that an earlier one left undefined.
fn undefined_flags(cpu: &Cpu, code: &[u64]) -> Option<u64> {
    let undefined = code.iter().try_fold(0, |undefined, &rip| {
        let bytes = cpu.code_bytes(rip);
        let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
        if instruction.rflags_read() & undefined != 0 {
            return None;
        }
        let new = instruction.rflags_undefined();
        Some(undefined & !(instruction.rflags_modified() & !new) | new)
    });
    undefined.map(Translator::flags)
}

/// The arithmetic flags that matter to the code at `rip`.
fn needed_flags(cpu: &Cpu, rip: u64) -> u64 {
    let bytes = cpu.code_bytes(rip);
    if bytes.is_empty() { ARITHMETIC } else { Translator::needed_flags(&bytes) }
}

impl Engine for Verifier {
    fn state(&self) -> CpuState {
        self.translator.state()
    }

    fn set_state(&mut self, state: &CpuState) {
        self.translator.set_state(state);
    }

    fn flush_translations(&mut self) {
        self.translator.flush_translations();
    }

    fn deprivilege(&mut self) {
        self.translator.deprivilege();
    }

    fn run(&mut self, platform: &mut dyn Platform, budget: Option<u64>) -> Stop {
        // A round is a block or less, which is near enough.
        let mut left = budget;
        loop {
            match &mut left {
                Some(0) => return Stop::Budget,
                Some(left) => *left -= 1,
                None => {}
            }
            let stop = match self.translator.next_apart(platform) {
                Ok(block) if self.is_due(block) => self.compare(platform, block),
                Ok(block) => self.translator.run_apart(platform, block).stop,
                Err(stop) => stop,
            };
            if let Some(stop) = stop {
                return stop;
            }
        }
    }

    fn interrupts_enabled(&self) -> bool {
        self.translator.interrupts_enabled()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.translator.counters();
        counters.extend([
            ("runs of blocks compared with the interpreter", self.counts.compared),
            ("runs of blocks that cannot be compared", self.counts.passed_over),
            ("comparisons repeated with an empty TLB", self.counts.repeated),
        ]);
        counters
    }

    fn instructions(&self) -> u64 {
        self.translator.instructions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_conformance::{Board, RAM_SIZE, initial_state, lay_out};
    use ambos_memory::{Bytes, GuestPhysAddr};
    use ambos_vcpu::Request;

    /// `mov ecx, 5; add eax, 3; push rax; loop -N; hlt`, from 0x8000 on.
    const CODE: [u8; 13] = [0xb9, 5, 0, 0, 0, 0x83, 0xc0, 3, 0x50, 0xff, 0xc9, 0x75, 0xf8];

    /// Runs the code; before the third block, `meddle` gets hold of everything.
    fn run(meddle: impl FnOnce(&GuestRam, &mut Verifier)) -> Stop {
        let ram = Arc::new(GuestRam::new(RAM_SIZE).unwrap());
        lay_out(&ram, &[&CODE[..], &[0xf4]].concat());
        let attention = Arc::new(Attention::default());
        let mut board = Board::new(Arc::clone(&attention));
        let options = Options { threshold: 0, ..Options::default() };
        let mut verifier =
            Verifier::with_options(Arc::clone(&ram), Arc::clone(&attention), options).unwrap();
        let mut state = initial_state("");
        state.gpr[4] = 0x7000;
        verifier.set_state(&state);
        assert_eq!(verifier.run(&mut board, Some(2)), Stop::Budget);
        meddle(&ram, &mut verifier);
        attention.lower(Request::STOP);
        verifier.run(&mut board, None)
    }

    #[test]
    fn equal_outcomes_are_no_difference() {
        assert_eq!(run(|_, _| {}), Stop::Halted);
    }

    #[test]
    fn a_wrong_translation_is_told_with_states_and_code() {
        // Code that changes behind the translator's back: the interpreter sees it once it has forgotten
        // what it had decoded.
        let stop = run(|ram, verifier| {
            ram.memory().write_obj(4_u8, GuestPhysAddr(0x8007)).unwrap();
            verifier.translator.cpu().blocks.clear();
        });
        let Stop::Failed(report) = stop else { panic!("{stop:?}") };
        for part in ["rax: 0x6 and 0x7", "memory, page 0x6000", "guest code:", "host code:"] {
            assert!(report.contains(part), "{part}: {report}");
        }
    }
}
