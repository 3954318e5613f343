//! Counters of the translator.

/// What the translator did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table's labels say what each counter counts")]
pub struct Statistics {
    pub blocks: u64,
    pub instructions: u64,
    pub guest_bytes: u64,
    pub host_bytes: u64,
    pub code_bytes: u64,
    pub table_bytes: u64,
    pub interpreted_sites: u64,
    pub probes: u64,
    pub groups: u64,
    pub looks: u64,
    pub flag_saves: u64,
    pub entries: u64,
    pub links: u64,
    pub indirect_misses: u64,
    pub far_misses: u64,
    pub tlb_misses: u64,
    pub memory_interpreted: u64,
    pub handled: u64,
    pub polls: u64,
    pub host_faults: u64,
    pub views_opened: u64,
    pub view_faults: u64,
    pub cold_blocks: u64,
    pub invalidated: u64,
    pub flushes: u64,
    pub ungrouped: u64,
}

impl Statistics {
    /// The counters with English labels, in the order of a report.
    pub fn table(&self) -> [(&'static str, u64); 26] {
        [
            ("blocks translated", self.blocks),
            ("guest instructions translated", self.instructions),
            ("bytes of guest code translated", self.guest_bytes),
            ("bytes of host code generated", self.host_bytes),
            ("bytes of the code cache in use", self.code_bytes),
            ("bytes of side tables of the code that is kept", self.table_bytes),
            ("instructions left to the interpreter in translated blocks", self.interpreted_sites),
            ("probes of the TLB generated", self.probes),
            ("probes for several memory operands", self.groups),
            ("looks for a view generated", self.looks),
            ("probes that save flags", self.flag_saves),
            ("entries into translated code", self.entries),
            ("blocks chained", self.links),
            ("jump cache misses", self.indirect_misses),
            ("jumps to other pages that were not linked or valid", self.far_misses),
            ("TLB misses", self.tlb_misses),
            ("groups of memory operands taken apart", self.ungrouped),
            ("memory operands served by the interpreter", self.memory_interpreted),
            ("instructions served by the interpreter in place", self.handled),
            ("exits for attention or stale code", self.polls),
            ("address spaces that got views", self.views_opened),
            ("pages missing in views", self.view_faults),
            ("host faults in translated code", self.host_faults),
            ("blocks run by the interpreter", self.cold_blocks),
            ("blocks invalidated", self.invalidated),
            ("code cache flushes", self.flushes),
        ]
    }
}
