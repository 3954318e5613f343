//! The places where generated code leaves to the dispatcher, as data.

use ambos_interpret::op::Op;
use bitflags::bitflags;
use std::ops::Range;
use std::rc::Rc;

/// Why generated code left, and how to go on.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Before the block's first instruction: something wants attention, or the block is stale.
    Entry {
        /// The flags are those that were kept in memory.
        flags_kept: bool,
    },
    /// The end of the block, with a direct successor in the same page that was not translated yet.
    Link {
        /// Address of the jump's displacement.
        patch: u64,
        /// The successor's offset in the block's page.
        target: u16,
    },
    /// The end of the block, with the successor's linear address in R10 and the flags in memory.
    Indirect {
        /// What the instruction added to the stack pointer, for running it again: it must fault
        /// where the address is not canonical.
        stack: i32,
    },
    /// A jump to another page that is not linked, or not where the page is: see [`crate::far`]. The flags are in
    /// memory.
    Far {
        /// Address of the displacement of the page's place.
        page_patch: u64,
        /// Address of the jump's displacement.
        jump_patch: u64,
        /// Where it leads, relative to the block's page.
        target: i32,
        /// What the instruction added to the stack pointer.
        stack: i8,
    },
    /// A memory operand that the TLB does not have. Its linear address is in R10 or R11.
    Miss {
        /// Which of the two.
        in_r11: bool,
        /// Bytes.
        size: u8,
        /// It is written.
        write: bool,
        /// The flags are those that were kept in memory.
        flags_kept: bool,
        /// What a group of operands has found is used later.
        spanned: bool,
        /// Where to go on once the TLB has it.
        retry: u64,
        /// Where to go on with what the TLB has.
        ready: u64,
    },
    /// The probe of a group of memory operands.
    Group(GroupSite),
    /// An instruction for the interpreter.
    Interpret {
        /// The instruction.
        op: Rc<Op>,
        /// The block goes on after it.
        goes_on: bool,
        /// What a group of operands has found is used later.
        spanned: bool,
    },
}

/// The probe of a group of memory operands that the TLB does not have, or that do not lie in one page. The linear address
/// of the first byte is in R10.
#[derive(Debug, Clone)]
pub(crate) struct GroupSite {
    /// Offset and bytes of the operand that comes next, if one does.
    pub(crate) first: Option<(i32, usize)>,
    /// Address of the displacement of the jump that is taken if the probe fails.
    pub(crate) patch: u64,
    /// Bytes that it spans.
    pub(crate) span: u16,
    /// Address of code that goes on without groups, once that was made.
    pub(crate) apart: Option<u64>,
    /// How often the group had to be taken apart for what the TLB cannot have.
    pub(crate) failures: u32,
    /// Some are written.
    pub(crate) write: bool,
    /// The flags are those that were kept in memory.
    pub(crate) flags_kept: bool,
    /// Where to go on once the TLB has it.
    pub(crate) retry: u64,
    /// Where to go on with what the TLB has.
    pub(crate) ready: u64,
}

/// One place.
#[derive(Debug)]
pub(crate) struct Site {
    /// Number of the block.
    pub(crate) block: u32,
    /// Offset of the instruction in its page.
    pub(crate) offset: u16,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    /// Where to go on after the instruction; zero if the block does not.
    pub(crate) next: u64,
    /// Why and how.
    pub(crate) kind: Kind,
}

/// All sites, packed: there are several for each block, and most are never looked at.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    /// What addresses are relative to: the start of the code cache.
    base: u64,
    sites: Vec<Packed>,
    groups: Vec<GroupSite>,
    ops: Vec<Rc<Op>>,
}

/// A site with offsets from the base for addresses.
#[derive(Debug)]
struct Packed {
    block: u32,
    next: u32,
    kind: PackedKind,
    offset: u16,
    length: u8,
}

/// A [`Kind`]. Groups and instructions, of which there are fewer, lie elsewhere.
#[derive(Debug)]
enum PackedKind {
    Entry { flags_kept: bool },
    Link { patch: u32, target: u16 },
    Indirect { stack: i32 },
    Far { page_patch: u32, target: i32, jump: u8, stack: i8 },
    Miss { retry: u32, ready: u32, size: u8, flags: MissFlags },
    Group(u32),
    Interpret { op: u32, goes_on: bool, spanned: bool },
}

bitflags! {
    #[derive(Debug, Clone, Copy)]
    struct MissFlags: u8 {
        const IN_R11 = 1;
        const WRITE = 2;
        const FLAGS_KEPT = 4;
        const SPANNED = 8;
    }
}

impl Sites {
    /// None yet, for code that lies at `base` and within 4 GiB after it.
    pub(crate) fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.sites.len()
    }

    fn near(&self, address: u64) -> u32 {
        address.wrapping_sub(self.base) as u32
    }

    fn far(&self, offset: u32) -> u64 {
        self.base.wrapping_add(u64::from(offset))
    }

    pub(crate) fn push(&mut self, site: Site) {
        let kind = match site.kind {
            Kind::Entry { flags_kept } => PackedKind::Entry { flags_kept },
            Kind::Link { patch, target } => PackedKind::Link { patch: self.near(patch), target },
            Kind::Indirect { stack } => PackedKind::Indirect { stack },
            Kind::Far { page_patch, jump_patch, target, stack } => {
                let jump = (jump_patch - page_patch) as u8;
                PackedKind::Far { page_patch: self.near(page_patch), target, jump, stack }
            }
            Kind::Miss { in_r11, size, write, flags_kept, spanned, retry, ready } => {
                let mut flags = MissFlags::empty();
                flags.set(MissFlags::IN_R11, in_r11);
                flags.set(MissFlags::WRITE, write);
                flags.set(MissFlags::FLAGS_KEPT, flags_kept);
                flags.set(MissFlags::SPANNED, spanned);
                let (retry, ready) = (self.near(retry), self.near(ready));
                PackedKind::Miss { retry, ready, size, flags }
            }
            Kind::Group(group) => {
                self.groups.push(group);
                PackedKind::Group(self.groups.len() as u32 - 1)
            }
            Kind::Interpret { op, goes_on, spanned } => {
                self.ops.push(op);
                PackedKind::Interpret { op: self.ops.len() as u32 - 1, goes_on, spanned }
            }
        };
        let Site { block, offset, length, next, .. } = site;
        let next = if next == 0 { 0 } else { self.near(next) };
        self.sites.push(Packed { block, next, kind, offset, length });
    }

    pub(crate) fn get(&self, number: usize) -> Option<Site> {
        let &Packed { block, next, ref kind, offset, length } = self.sites.get(number)?;
        let kind = match *kind {
            PackedKind::Entry { flags_kept } => Kind::Entry { flags_kept },
            PackedKind::Link { patch, target } => Kind::Link { patch: self.far(patch), target },
            PackedKind::Indirect { stack } => Kind::Indirect { stack },
            PackedKind::Far { page_patch, target, jump, stack } => {
                let page_patch = self.far(page_patch);
                Kind::Far { page_patch, jump_patch: page_patch + u64::from(jump), target, stack }
            }
            PackedKind::Miss { retry, ready, size, flags } => Kind::Miss {
                in_r11: flags.contains(MissFlags::IN_R11),
                size,
                write: flags.contains(MissFlags::WRITE),
                flags_kept: flags.contains(MissFlags::FLAGS_KEPT),
                spanned: flags.contains(MissFlags::SPANNED),
                retry: self.far(retry),
                ready: self.far(ready),
            },
            PackedKind::Group(group) => Kind::Group(self.groups.get(group as usize)?.clone()),
            PackedKind::Interpret { op, goes_on, spanned } => {
                Kind::Interpret { op: Rc::clone(self.ops.get(op as usize)?), goes_on, spanned }
            }
        };
        let next = if next == 0 { 0 } else { self.far(next) };
        Some(Site { block, offset, length, next, kind })
    }

    /// The group of operands at a site.
    pub(crate) fn group_mut(&mut self, number: usize) -> Option<&mut GroupSite> {
        match self.sites.get(number)?.kind {
            PackedKind::Group(group) => self.groups.get_mut(group as usize),
            _ => None,
        }
    }

    /// Which of some sites is that of a memory operand that goes on at `ready` with what the TLB has.
    pub(crate) fn operand_at(&self, mut numbers: Range<usize>, ready: u64) -> Option<usize> {
        let offset = self.near(ready);
        numbers.find(|&number| match self.sites.get(number).map(|site| &site.kind) {
            Some(PackedKind::Miss { ready: at, .. }) => *at == offset,
            Some(PackedKind::Group(group)) => {
                self.groups.get(*group as usize).is_some_and(|group| group.ready == ready)
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_come_back_as_they_were() {
        let base = 0x7000_0000_0000;
        let mut sites = Sites::new(base);
        let kinds = [
            Kind::Entry { flags_kept: true },
            Kind::Link { patch: base + 7, target: 0xfff },
            Kind::Indirect { stack: -8 },
            Kind::Far { page_patch: base + 9, jump_patch: base + 29, target: -0x2000, stack: -8 },
            Kind::Miss {
                in_r11: true,
                size: 64,
                write: false,
                flags_kept: true,
                spanned: false,
                retry: base + 0x10_0000,
                ready: base + 0x10_0030,
            },
            Kind::Group(GroupSite {
                first: Some((24, 8)),
                patch: base + 1,
                span: 0x18,
                apart: Some(base + 2),
                failures: 3,
                write: true,
                flags_kept: false,
                retry: base + 4,
                ready: base + 5,
            }),
        ];
        for (number, kind) in kinds.iter().enumerate() {
            let next = if number == 0 { 0 } else { base + number as u64 };
            sites.push(Site { block: 1, offset: 2, length: 3, next, kind: kind.clone() });
        }
        for (number, kind) in kinds.iter().enumerate() {
            let site = sites.get(number).unwrap();
            assert_eq!(format!("{:?}", site.kind), format!("{kind:?}"));
            assert_eq!(site.next, if number == 0 { 0 } else { base + number as u64 });
            assert_eq!((site.block, site.offset, site.length), (1, 2, 3));
        }
        assert_eq!(sites.operand_at(0..6, base + 0x10_0030), Some(4));
        assert_eq!(sites.operand_at(0..6, base + 5), Some(5));
        assert!(sites.group_mut(5).is_some() && sites.group_mut(4).is_none());
        assert!(sites.get(6).is_none());
        assert!(size_of::<Packed>() <= 24);
    }
}
