//! One ring of requests, and how they are served.

use super::request::{self, Action, Request, SLOT, Segment, Segments, Status};
use crate::events::{Notified, Progress};
use crate::grants::{Access, Grants, Pins};
use crate::ring::RequestRing;
use crate::served::{Batch, ServedRing};
use ambos_block::{BlockBackend, SECTOR};
use ambos_memory::{Bytes, DmaRange, GuestPhysAddr};
use std::io;
use std::sync::Arc;

/// A queue of a disk.
pub(super) struct Queue {
    disk: Arc<dyn BlockBackend>,
    read_only: bool,
    grants: Arc<dyn Grants>,
    ring: ServedRing<()>,
}

impl Queue {
    /// A queue that serves `ring` as soon as it has a channel.
    pub(super) fn new(
        disk: &Arc<dyn BlockBackend>,
        read_only: bool,
        grants: &Arc<dyn Grants>,
        ring: RequestRing,
    ) -> Arc<Self> {
        let ring = ServedRing::new("a disk", ring, ());
        Arc::new(Self { disk: Arc::clone(disk), read_only, grants: Arc::clone(grants), ring })
    }

    /// The ring, to connect and disconnect it.
    pub(super) fn ring(&self) -> &ServedRing<()> {
        &self.ring
    }

    fn execute(&self, action: &Action) -> Status {
        let result = match action {
            Action::Write { .. } | Action::Discard { .. } if self.read_only => {
                Err(io::ErrorKind::PermissionDenied.into())
            }
            Action::Read { sector, segments } => self.transfer(Access::Write, *sector, segments),
            Action::Write { sector, segments, barrier: false } => {
                self.transfer(Access::Read, *sector, segments)
            }
            Action::Write { sector, segments, barrier: true } => self
                .disk
                .flush()
                .and_then(|()| self.transfer(Access::Read, *sector, segments))
                .and_then(|()| self.disk.flush()),
            Action::Flush => self.disk.flush(),
            Action::Discard { sector, sectors } => {
                bytes(*sector).and_then(|offset| self.disk.discard(offset, bytes(*sectors)?))
            }
            Action::Refuse(status) => return *status,
        };
        if result.is_ok() { Status::Okay } else { Status::Error }
    }

    /// Moves data between the disk and the guest's pages, of which `access` is made.
    fn transfer(&self, access: Access, sector: u64, segments: &Segments) -> io::Result<()> {
        let offset = bytes(sector)?;
        let indirect;
        let segments = match segments {
            Segments::Direct(segments) => segments,
            Segments::Indirect { pages, count } => {
                indirect = self.described(pages, *count)?;
                &indirect
            }
        };
        let mut pins = Pins::new(&*self.grants);
        let ranges = segments.iter().map(|&Segment { page, offset, length }| {
            pins.range(page, access, offset, length).map_err(io::Error::other)
        });
        let ranges: Vec<DmaRange> = ranges.collect::<io::Result<_>>()?;
        let ram = self.grants.ram();
        let slices = ram.dma_slices(&ranges).map_err(io::Error::other)?;
        match access {
            Access::Read => self.disk.write(offset, &slices),
            Access::Write => {
                let result = self.disk.read(offset, &slices);
                // A read that fails may have changed memory, too.
                ram.device_wrote(&ranges);
                result
            }
        }
    }

    /// The segments of an indirect request, copied so that the guest cannot change them any more.
    fn described(
        &self,
        pages: &[crate::grants::GrantRef],
        count: usize,
    ) -> io::Result<Vec<Segment>> {
        let mut pins = Pins::new(&*self.grants);
        let mut bytes = vec![0; request::described_in(count)];
        for (page, bytes) in pages.iter().zip(bytes.chunks_mut(4096)) {
            let address = pins.page(*page, Access::Read).map_err(io::Error::other)?;
            let memory = self.grants.ram().memory();
            memory.read_slice(bytes, GuestPhysAddr(address)).map_err(io::Error::other)?;
        }
        request::decode_segments(&bytes).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

fn bytes(sectors: u64) -> io::Result<u64> {
    sectors.checked_mul(SECTOR).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

impl Notified for Queue {
    fn notified(&self) -> Progress {
        self.ring.serve(|ring, waiting, ()| {
            for _ in 0..waiting {
                let mut slot = [0; SLOT];
                ring.take(&mut slot)?;
                let request = Request::decode(&slot);
                let status = self.execute(&request.action);
                ring.answer(&request.answer(status))?;
            }
            Ok(Batch::Answered)
        })
    }
}
