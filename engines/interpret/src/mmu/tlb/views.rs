//! Pages of user accesses that are *seen* in host memory, at their linear address plus a number that is the same for
//! all pages of a region: generated code reaches them without a probe.
//!
//! What is seen is a part of what the read and write caches have, or had before something else took its slot:
//! whatever drops a translation from them hides the page. Pages that may be written only with a look at each write,
//! such as those of code, are seen read-only.
//!
//! Each bank has a table with the number to add for each region. Generated code finds it by some bits of the address
//! ([`VIEW_MASK`]) and adds it unseen. For regions without a view the sum lies in an area where nothing is seen; with
//! other bits of the address set, beyond what user memory the host has. Either way the access faults. Or it takes the
//! distance that is usual, and reads in the guard, [`GUARD_OFFSET`], which faults if that is wrong.

use super::{BANKS, Bank, Tlb};
use ambos_hostcode::View;
use ambos_memory::GuestRam;
use rustc_hash::FxHashMap;

/// The bits of a linear address that number its region.
pub const VIEW_MASK: u64 = (VIEW_REGIONS as u64 - 1) << REGION_BITS;
/// Regions.
pub const VIEW_REGIONS: usize = 256;
/// Binary logarithm of the bytes of a region.
const REGION_BITS: u32 = 40;
const REGION: u64 = 1 << REGION_BITS;
/// Regions of the lower half.
const LOWER: usize = VIEW_REGIONS / 2;
/// Where Linux has position-independent programs with their heaps, and libraries, mappings and stacks: each begins
/// somewhere in a region and may end in the next one. Two zones of regions that are moved by the same distance.
const PROGRAM: (usize, usize) = (0x55, 2);
const TOP: (usize, usize) = (0x7e, 2);
/// The usual distance where there is none: from [`PROGRAM`] and [`TOP`], and what lies around them, it leads to addresses
/// that no user memory of the host's has.
const BEYOND: u64 = 0x40 << REGION_BITS;
/// Distances that are tried, in regions: such that zones leave room between them.
const DISTANCES: std::ops::Range<usize> = 1..28;
const DISTANCE_STEP: usize = 3;
/// Most zones that a bank sees.
const MOST_ZONES: usize = 4;
/// Most banks that have zones, so that the host's address space serves several vCPUs.
const MOST_BANKS: usize = 3;
/// Most pages that a bank sees.
const MOST_PAGES: usize = 6 << 10;
/// A page that is to be seen brings those around it with it that the TLB has, of so many.
const AROUND: u64 = 32;

/// What generated code finds of a bank's views.
#[derive(Debug)]
#[repr(C)]
pub struct BankViews {
    /// By region, what to add to linear addresses.
    pub distances: [u64; VIEW_REGIONS],
    /// What is to be added most often: to those of the stack, and to others.
    pub usual: [u64; 2],
    /// By region, the region's number if the distance is the usual one; else another number.
    pub is_usual: [[u8; VIEW_REGIONS]; 2],
}

impl BankViews {
    /// Notes for which regions the usual distances are right.
    fn note_usual(&mut self) {
        for (usual, is_usual) in self.usual.iter().zip(&mut self.is_usual) {
            for (region, (number, distance)) in is_usual.iter_mut().zip(&self.distances).enumerate()
            {
                *number = if distance == usual { region as u8 } else { !region as u8 };
            }
        }
    }
}

/// The bits of a linear address that lead to its byte in a bank's guard, see [`GUARD_OFFSET`]: those of its region lead
/// to a page.
pub const GUARD_MASK: u64 = (GUARD_SIZE as u64 - 1) << (REGION_BITS - 12);
/// Where a bank's guard lies in the tail of its window, after the [`Bank`]: a page for each region, which can be accessed
/// if the first of the usual distances is that of the region. Generated code that is to be right with that distance
/// reads there, and faults if it is wrong.
pub const GUARD_OFFSET: usize = size_of::<Bank>().next_multiple_of(0x1000);
const GUARD_SIZE: usize = VIEW_REGIONS << 12;
/// Bytes of the tail of a bank's window.
pub const BANK_WINDOW: usize = GUARD_OFFSET + GUARD_SIZE;

/// Adjacent regions that are seen at one distance.
#[derive(Debug)]
struct Zone {
    first: usize,
    view: View,
    count: usize,
}

impl Zone {
    /// One of a region, wherever the host has room.
    fn anywhere(region: usize) -> Option<Self> {
        Some(Self { first: region, count: 1, view: View::new(REGION).ok()? })
    }

    fn contains(&self, region: usize) -> bool {
        (self.first..self.first + self.count).contains(&region)
    }

    /// What to add to its addresses so that they lie in the view.
    fn distance(&self) -> u64 {
        (self.view.start() as u64).wrapping_sub((self.first as u64) << REGION_BITS)
    }

    /// How far from its start an address is.
    fn offset(&self, linear: u64) -> u64 {
        linear.wrapping_sub((self.first as u64) << REGION_BITS)
    }
}

/// A page that is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    host_page: usize,
    writable: bool,
}

/// What one bank sees.
#[derive(Debug, Default)]
struct BankView {
    /// The root of the address space that the zones are of.
    root: Option<u64>,
    zones: Vec<Zone>,
    /// Not all zones are at the same distance.
    is_mixed: bool,
    /// When it was last prepared.
    prepared: u64,
    pages: FxHashMap<usize, Seen>,
}

/// What all banks see.
#[derive(Debug, Default)]
pub(super) struct Views {
    banks: [BankView; BANKS],
    /// Where sums lie that lead nowhere.
    nowhere: Option<View>,
    /// How often banks were prepared.
    prepared: u64,
}

/// The region of an address of the lower half.
fn region(linear: u64) -> Option<usize> {
    let region = (linear >> REGION_BITS) as usize;
    (region < LOWER).then_some(region)
}

/// The pages that come with the one of `linear`, and that.
fn around(linear: u64) -> impl Iterator<Item = u64> {
    let first = linear & !(AROUND * 0x1000 - 1);
    (0..AROUND).map(move |index| first + index * 0x1000)
}

/// Zones for programs and for stacks, moved by the same distance, such that neither touches anything.
fn two_zones() -> Option<[Zone; 2]> {
    DISTANCES.map(|step| step * DISTANCE_STEP).find_map(|regions| {
        let zone = |(first, count): (usize, usize)| {
            let start = first.checked_sub(regions)? << REGION_BITS;
            let view = View::at(start, count as u64 * REGION).ok()?;
            Some(Zone { first, count, view })
        };
        Some([zone(PROGRAM)?, zone(TOP)?])
    })
}

impl Views {
    pub(super) fn is_writable(&self, bank: usize, page: u64, host_page: usize) -> bool {
        self.banks[bank].pages.get(&(page as usize)) == Some(&Seen { host_page, writable: true })
    }

    /// Hides a page.
    pub(super) fn hide(&mut self, bank: usize, page: u64) {
        let bank = &mut self.banks[bank];
        if bank.pages.is_empty() || bank.pages.remove(&(page as usize)).is_none() {
            return;
        }
        let Some(region) = region(page) else { return };
        if let Some(zone) = bank.zones.iter_mut().find(|zone| zone.contains(region)) {
            let offset = zone.offset(page);
            if !zone.view.hide(offset, 0x1000) {
                bank.pages.retain(|&page, _| {
                    self::region(page as u64).is_some_and(|region| !zone.contains(region))
                });
            }
        }
    }

    /// Hides what may be written of a host page.
    pub(super) fn hide_writable(&mut self, bank: usize, host_page: usize) {
        let seen = Seen { host_page, writable: true };
        let pages = self.banks[bank].pages.iter().filter(|&(_, &page)| page == seen);
        for page in pages.map(|(&page, _)| page as u64).collect::<Vec<_>>() {
            self.hide(bank, page);
        }
    }

    /// Hides everything of a bank.
    pub(super) fn clear(&mut self, bank: usize) {
        let bank = &mut self.banks[bank];
        bank.pages.clear();
        bank.zones.iter_mut().for_each(|zone| zone.view.clear());
    }
}

impl Tlb {
    /// Reserves what code that reaches what is seen needs in any case; whether the host has room for that. Before,
    /// no such code may run.
    pub fn reserve_views(&mut self) -> bool {
        if self.views.nowhere.is_none() && (0..BANKS).all(|bank| self.close_guard(bank)) {
            self.views.nowhere = View::new(REGION).ok();
            (0..BANKS).for_each(|bank| self.lead_nowhere(bank));
        }
        self.views.nowhere.is_some()
    }

    /// Lets no region be at the usual distance, in one bank; whether that was possible.
    fn close_guard(&self, bank: usize) -> bool {
        self.windows.allow(bank, GUARD_OFFSET, GUARD_SIZE, false).is_ok()
    }

    /// Lets all addresses lead to where nothing is seen, in one bank whose guard is closed.
    fn lead_nowhere(&mut self, bank: usize) {
        self.views.banks[bank] = BankView::default();
        let Some(start) = self.views.nowhere.as_ref().map(View::start) else { return };
        let views = &mut self.bank_mut(bank).views;
        for (region, distance) in views.distances.iter_mut().enumerate() {
            *distance = (start as u64).wrapping_sub((region as u64) << REGION_BITS);
        }
        views.usual = [BEYOND; 2];
        views.is_usual = [std::array::from_fn(|region| !region as u8); 2];
    }

    /// Whether the current bank is ready for an address space: see [`Tlb::prepare_view`].
    #[inline]
    pub fn is_prepared(&self, root: u64) -> bool {
        self.views.banks[self.current].root == Some(root)
    }

    /// Makes the current bank ready for code that reaches what is seen, in the address space with this root and with the
    /// stack at this linear address. No such code may run on that was begun before.
    pub fn prepare_view(&mut self, root: u64, stack: u64) {
        let current = self.current;
        if self.is_prepared(root) || !self.reserve_views() {
            return;
        }
        if !self.close_guard(current) {
            // What another address space had will do: of that nothing is seen any more.
            self.views.banks[current].root = Some(root);
            return;
        }
        // Other banks' code does not run now.
        let others = self.views.banks.iter().enumerate();
        let with_zones: Vec<usize> = others
            .filter(|&(bank, view)| bank != current && view.root.is_some())
            .map(|(bank, _)| bank)
            .collect();
        if with_zones.len() >= MOST_BANKS {
            let oldest = with_zones.into_iter().min_by_key(|&bank| self.views.banks[bank].prepared);
            if let Some(oldest) = oldest.filter(|&bank| self.close_guard(bank)) {
                self.lead_nowhere(oldest);
            }
        }
        self.lead_nowhere(current);
        self.views.prepared += 1;
        let prepared = self.views.prepared;
        self.views.banks[current] =
            BankView { root: Some(root), prepared, is_mixed: true, ..BankView::default() };
        let Some(zones) = two_zones() else { return };
        self.views.banks[current].is_mixed = false;
        self.bank_mut(current).views.usual = [zones[1].distance(); 2];
        let elsewhere =
            region(stack).filter(|&region| zones.iter().all(|zone| !zone.contains(region)));
        if let Some(zone) = elsewhere.and_then(Zone::anywhere) {
            self.bank_mut(current).views.usual = [zone.distance(); 2];
            self.add_zone(zone);
        }
        zones.into_iter().for_each(|zone| self.add_zone(zone));
    }

    /// Adds a zone to the current bank's.
    fn add_zone(&mut self, zone: Zone) {
        let distance = zone.distance();
        let views = &mut self.bank_mut(self.current).views;
        views.distances[zone.first..zone.first + zone.count].fill(distance);
        views.note_usual();
        let usual = views.usual[0] == distance;
        let pages = [zone.first, zone.count].map(|regions| regions << 12);
        let bank = &mut self.views.banks[self.current];
        let allowed = usual
            && self.windows.allow(self.current, GUARD_OFFSET + pages[0], pages[1], true).is_ok();
        bank.is_mixed |= !allowed;
        bank.zones.push(zone);
    }

    /// Where the current bank sees a linear address of the lower half as far as it has a view of the region: a
    /// host address.
    pub fn seen_from(&self, host: usize) -> Option<u64> {
        let zones = &self.views.banks[self.current].zones;
        let zone = zones.iter().find(|zone| zone.view.contains(host))?;
        Some((host as u64).wrapping_sub(zone.distance()))
    }

    /// Whether the current bank sees all it does at one distance: the first of the usual ones.
    pub fn sees_evenly(&self) -> bool {
        !self.views.banks[self.current].is_mixed
    }

    /// Whether a linear address, and what lies around it, is at the first of the usual distances, or not seen at all,
    /// in any bank that [`Tlb::sees_evenly`].
    pub fn is_seen_evenly(linear: u64) -> bool {
        let region = (linear >> REGION_BITS) as usize;
        [PROGRAM, TOP].iter().any(|&(first, count)| (first..first + count).contains(&region))
    }

    /// Whether a host address lies in the current bank's guard.
    pub fn is_guard(&self, host: usize) -> bool {
        let start = self.windows.tail(self.current) + GUARD_OFFSET;
        (start..start + GUARD_SIZE).contains(&host)
    }

    /// Whether a host address lies where those of regions without a view lead.
    pub fn is_nowhere(&self, host: usize) -> bool {
        self.views.nowhere.as_ref().is_some_and(|view| view.contains(host))
    }

    /// Whether the current bank sees a linear address where it sees the stack.
    pub fn is_seen_as_stack(&self, linear: u64) -> bool {
        let region = (linear >> REGION_BITS) as usize;
        let is_usual = self.bank(self.current).views.is_usual[0].get(region);
        is_usual.is_some_and(|&number| usize::from(number) == region)
    }

    /// Whether the current bank sees pages of the address space with this root.
    pub fn sees_some_of(&self, root: u64) -> bool {
        let bank = &self.views.banks[self.current];
        bank.root == Some(root) && !bank.pages.is_empty()
    }

    /// The pages around one that come with it, as far as they are not seen yet.
    pub fn unseen_around(&self, linear: u64) -> Vec<u64> {
        let pages = &self.views.banks[self.current].pages;
        around(linear).filter(|&page| !pages.contains_key(&(page as usize))).collect()
    }

    /// Lets the page of `linear`, which the caches of user accesses have, be seen, and some around it. Whether
    /// it is; if not, there is no room for it.
    pub fn see(&mut self, ram: &GuestRam, linear: u64) -> bool {
        let pages: Vec<_> =
            around(linear).filter_map(|page| Some((page, self.to_see(page)?))).collect();
        self.show(ram, &pages);
        self.views.banks[self.current].pages.contains_key(&(linear as usize & !0xfff))
    }

    /// Lets all pages be seen that the first level of the caches of user accesses has.
    pub fn see_all(&mut self, ram: &GuestRam) {
        let known = &self.set(self.current, Self::USER).pages;
        let reads = known.iter().step_by(super::bank::PAGE_SLOT_ENTRIES);
        let mut pages: Vec<u64> = reads.map(|entry| entry.key).collect();
        pages.sort_unstable();
        let pages: Vec<_> =
            pages.into_iter().filter_map(|page| Some((page, self.to_see(page)?))).collect();
        self.show(ram, &pages);
    }

    /// How a page is to be seen; `None` if it is so already or cannot be.
    fn to_see(&self, page: u64) -> Option<Seen> {
        region(page)?;
        let written = self.lookup_write(Self::USER, page);
        let host_page = written.or_else(|| self.lookup_read(Self::USER, page))?;
        let seen = Seen { host_page, writable: written.is_some() };
        let known = self.views.banks[self.current].pages.get(&(page as usize));
        (known != Some(&seen)).then_some(seen)
    }

    /// Lets pages, in ascending order, be seen.
    fn show(&mut self, ram: &GuestRam, pages: &[(u64, Seen)]) {
        let Some(file) = ram.file() else { return };
        if self.views.banks[self.current].root.is_none() {
            return;
        }
        let mut rest = pages;
        while let Some(&(page, seen)) = rest.first() {
            // Neighbours in both address spaces are seen at once.
            let is_next = |index: usize, &&(other, its): &&(u64, Seen)| {
                let away = index as u64 * 0x1000;
                let alike = (other, its.writable) == (page.wrapping_add(away), seen.writable);
                alike
                    && region(other) == region(page)
                    && its.host_page == seen.host_page.wrapping_add(away as usize)
                    && ram.file_offset(its.host_page)
                        == ram.file_offset(seen.host_page).map(|offset| offset + away)
            };
            let run = rest.iter().enumerate().take_while(|(index, next)| is_next(*index, next));
            let count = run.count().max(1);
            let (now, later) = rest.split_at(count);
            rest = later;
            let (Some(offset), Some(region)) = (ram.file_offset(seen.host_page), region(page))
            else {
                continue;
            };
            let bank = &mut self.views.banks[self.current];
            if bank.pages.len() + count > MOST_PAGES {
                self.views.clear(self.current);
            }
            let size = count as u64 * 0x1000;
            let Some(zone) = self.zone(region) else { continue };
            let start = zone.offset(page);
            if !zone.view.show(start, size, file, offset, seen.writable) {
                // Nothing of it is seen, and all that counts as seen makes room.
                self.views.clear(self.current);
                return;
            }
            let now = now.iter().map(|&(page, seen)| (page as usize, seen));
            self.views.banks[self.current].pages.extend(now);
        }
    }

    /// The current bank's zone of a region, made if there is none yet.
    fn zone(&mut self, region: usize) -> Option<&mut Zone> {
        let current = self.current;
        let zones = &self.views.banks[current].zones;
        let known = zones.iter().position(|zone| zone.contains(region));
        let index = match known {
            Some(index) => index,
            None if zones.len() >= MOST_ZONES => return None,
            None => {
                let zone = Zone::anywhere(region)?;
                let place = zones.len();
                if region == 0 {
                    // A program that is not position-independent has its data here.
                    self.use_for_data(zone.distance());
                }
                self.add_zone(zone);
                place
            }
        };
        self.views.banks[current].zones.get_mut(index)
    }

    /// Makes a distance the usual one of what is not on the stack, in the current bank.
    fn use_for_data(&mut self, distance: u64) {
        let views = &mut self.bank_mut(self.current).views;
        views.usual[1] = distance;
        views.note_usual();
    }
}

#[cfg(test)]
mod tests;
