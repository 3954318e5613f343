//! `memory_op`: how much memory the guest has, and which frames.

use super::mmu_update::is_self;
use super::{Answer, Arguments, Call, DONE, Outcome};
use crate::bytes;
use crate::vcpu::XenVcpu;
use ambos_vcpu::GuestCpu;
use ambos_xen_abi::memory::{MAP_ENTRY_SIZE, MAP_RAM, RESERVATION_SIZE, op};
use ambos_xen_abi::{Errno, Hypercall, mmu};
use std::sync::Arc;

pub(super) struct MemoryOp;

/// Bits of the command; the rest of it says how many extents a paused call has done.
const COMMAND_BITS: u32 = 6;

/// A list of extents: `struct xen_memory_reservation`.
struct Reservation {
    list: u64,
    count: u64,
    order: u32,
}

impl Reservation {
    fn read(cpu: &mut dyn GuestCpu, at: u64) -> Result<Self, Errno> {
        let request = bytes::read::<{ RESERVATION_SIZE as usize }>(cpu, at)?;
        if !is_self(bytes::u16_at(&request, 24).into()) {
            return Err(Errno::ESRCH);
        }
        Ok(Self {
            list: bytes::u64_at(&request, 0),
            count: bytes::u64_at(&request, 8),
            order: bytes::u32_at(&request, 16),
        })
    }

    fn extent(&self, cpu: &mut dyn GuestCpu, index: u64) -> Result<u64, Errno> {
        let at = self.list.wrapping_add(index * 8);
        Ok(u64::from_le_bytes(bytes::read::<8>(cpu, at)?))
    }

    fn set_extent(&self, cpu: &mut dyn GuestCpu, index: u64, frame: u64) -> Result<(), Errno> {
        if self.list == 0 {
            return Ok(());
        }
        bytes::write(cpu, self.list.wrapping_add(index * 8), &frame.to_le_bytes())
    }
}

/// What to do with each extent of a reservation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Increase,
    Decrease,
    Populate,
}

impl Call for MemoryOp {
    const NUMBER: Hypercall = Hypercall::MemoryOp;

    fn serve(vcpu: &mut XenVcpu, cpu: &mut dyn GuestCpu, arguments: Arguments) -> Outcome {
        let [command, at, ..] = arguments;
        let done = (command & 0xffff_ffff) >> COMMAND_BITS;
        let domain = Arc::clone(&vcpu.domain);
        let layout = domain.layout;
        match command & ((1 << COMMAND_BITS) - 1) {
            op::INCREASE_RESERVATION => vcpu.change(cpu, command, at, done, Change::Increase),
            op::DECREASE_RESERVATION => vcpu.change(cpu, command, at, done, Change::Decrease),
            op::POPULATE_PHYSMAP => vcpu.change(cpu, command, at, done, Change::Populate),
            op::EXCHANGE => vcpu.exchange(cpu, at),
            op::MAXIMUM_RAM_PAGE => Ok(Answer::Value(layout.end - 1)),
            op::CURRENT_RESERVATION | op::MAXIMUM_RESERVATION | op::MAXIMUM_GPFN => {
                if !is_self(u16::from_le_bytes(bytes::read::<2>(cpu, at)?).into()) {
                    return Err(Errno::ESRCH);
                }
                let (current, maximum) = domain.pages(cpu).reservation();
                Ok(Answer::Value(match command {
                    op::CURRENT_RESERVATION => current,
                    op::MAXIMUM_RESERVATION => maximum,
                    _ => layout.guest_frames - 1,
                }))
            }
            op::MACHPHYS_MFN_LIST => {
                let request = bytes::read::<24>(cpu, at)?;
                let (most, list) = (bytes::u32_at(&request, 0), bytes::u64_at(&request, 8));
                // One frame for each two megabytes of the table.
                let count = layout.machphys_frames.div_ceil(512).min(most.into());
                for index in 0..count {
                    let frame = layout.machphys + index * 512;
                    bytes::write(cpu, list.wrapping_add(index * 8), &frame.to_le_bytes())?;
                }
                bytes::write(cpu, at.wrapping_add(16), &(count as u32).to_le_bytes())?;
                DONE
            }
            op::MACHPHYS_MAPPING => {
                let words = [
                    mmu::MACHINE_TO_PHYS_START,
                    mmu::MACHINE_TO_PHYS_START + (layout.machphys_frames << 12),
                    layout.end - 1,
                ];
                bytes::write(cpu, at, &words.map(u64::to_le_bytes).concat())?;
                DONE
            }
            op::MEMORY_MAP => {
                let request = bytes::read::<16>(cpu, at)?;
                let (room, buffer) = (bytes::u32_at(&request, 0), bytes::u64_at(&request, 8));
                if room < 1 {
                    bytes::write(cpu, at, &1u32.to_le_bytes())?;
                    return Err(Errno::EINVAL);
                }
                let mut entry = [0; MAP_ENTRY_SIZE as usize];
                entry[8..16].copy_from_slice(&(layout.guest_frames << 12).to_le_bytes());
                entry[16..20].copy_from_slice(&MAP_RAM.to_le_bytes());
                bytes::write(cpu, buffer, &entry)?;
                bytes::write(cpu, at, &1u32.to_le_bytes())?;
                DONE
            }
            op::MACHINE_MEMORY_MAP => Err(Errno::EPERM),
            // PV guests find what there is to find in their start information.
            op::ADD_TO_PHYSMAP => Err(Errno::EINVAL),
            _ => Err(Errno::ENOSYS),
        }
    }
}

impl XenVcpu {
    /// Serves a list of extents; returns how many were done.
    fn change(
        &mut self,
        cpu: &mut dyn GuestCpu,
        command: u64,
        at: u64,
        done: u64,
        change: Change,
    ) -> Outcome {
        // Extents of more than a page are for guests with devices of their own.
        let reservation = Reservation::read(cpu, at)?;
        if reservation.count > u64::from(u32::MAX >> COMMAND_BITS) || done > reservation.count {
            return Err(Errno::EINVAL);
        }
        if reservation.order != 0 && change != Change::Decrease || reservation.order > 9 {
            return Ok(Answer::Value(0));
        }
        for index in done..reservation.count {
            if self.should_pause(index - done) {
                let command = command & ((1 << COMMAND_BITS) - 1) | index << COMMAND_BITS;
                return Ok(Answer::Again([command, at, 0, 0, 0, 0]));
            }
            let served = match change {
                Change::Decrease => self.decrease(cpu, &reservation, index)?,
                Change::Increase => self.increase(cpu, &reservation, index, None)?,
                Change::Populate => {
                    let pfn = reservation.extent(cpu, index)?;
                    self.increase(cpu, &reservation, index, Some(pfn))?
                }
            };
            if !served {
                return Ok(Answer::Value(index));
            }
        }
        Ok(Answer::Value(reservation.count))
    }

    fn decrease(
        &mut self,
        cpu: &mut dyn GuestCpu,
        reservation: &Reservation,
        index: u64,
    ) -> Result<bool, Errno> {
        let first = reservation.extent(cpu, index)?;
        let domain = Arc::clone(&self.domain);
        let mut pages = domain.pages(cpu);
        for offset in 0..1u64 << reservation.order {
            let Some(frame) = first.checked_add(offset) else { return Ok(false) };
            if pages.deallocate(frame).is_err() {
                return Ok(false);
            }
            pages.set_physical(frame, mmu::INVALID_P2M);
        }
        Ok(true)
    }

    fn increase(
        &mut self,
        cpu: &mut dyn GuestCpu,
        reservation: &Reservation,
        index: u64,
        pfn: Option<u64>,
    ) -> Result<bool, Errno> {
        let domain = Arc::clone(&self.domain);
        let Some(frame) = domain.pages(cpu).allocate() else { return Ok(false) };
        cpu.wrote_frame(frame << 12);
        if let Some(pfn) = pfn {
            domain.pages(cpu).set_physical(frame, pfn);
        }
        reservation.set_extent(cpu, index, frame)?;
        Ok(true)
    }

    /// Gives frames back and takes as many others: `struct xen_memory_exchange`.
    fn exchange(&mut self, cpu: &mut dyn GuestCpu, at: u64) -> Outcome {
        let input = Reservation::read(cpu, at)?;
        let output = Reservation::read(cpu, at.wrapping_add(RESERVATION_SIZE))?;
        let done_at = at.wrapping_add(2 * RESERVATION_SIZE);
        let done = u64::from_le_bytes(bytes::read::<8>(cpu, done_at)?);
        // Contiguous frames have no meaning here, where devices see physical addresses.
        if input.order != 0 || output.order != 0 {
            return Err(Errno::EPERM);
        }
        if input.count != output.count || done > input.count {
            return Err(Errno::EINVAL);
        }
        let domain = Arc::clone(&self.domain);
        for index in done..input.count {
            if self.should_pause(index - done) {
                bytes::write(cpu, done_at, &index.to_le_bytes())?;
                return Ok(Answer::Again([op::EXCHANGE, at, 0, 0, 0, 0]));
            }
            let (old, pfn) = (input.extent(cpu, index)?, output.extent(cpu, index)?);
            let exchanged = {
                let mut pages = domain.pages(cpu);
                let unused = pages.frame(old).is_some_and(|found| found.references == 0);
                match unused {
                    true => pages.deallocate(old).map(|()| {
                        pages.set_physical(old, mmu::INVALID_P2M);
                        let new = pages.allocate();
                        if let Some(new) = new {
                            pages.set_physical(new, pfn);
                        }
                        new
                    }),
                    false => Err(Errno::EINVAL),
                }
            };
            let new = exchanged.inspect_err(|_| {
                let _ = bytes::write(cpu, done_at, &index.to_le_bytes());
            })?;
            let new = new.ok_or(Errno::ENOMEM)?;
            cpu.wrote_frame(new << 12);
            output.set_extent(cpu, index, new)?;
        }
        bytes::write(cpu, done_at, &input.count.to_le_bytes())?;
        DONE
    }
}
