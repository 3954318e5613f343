//! Access to pages that the guest grants.

use ambos_memory::{DmaRange, GuestRam};
use std::sync::Arc;
use thiserror::Error;

/// Bytes of a granted page.
pub(crate) const PAGE: u32 = 4096;

/// The number of an entry in the guest's grant table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(pub u32);

/// What a granted page is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is only read.
    Read,
    /// It is written, and perhaps read. A grant for reading only does not suffice.
    Write,
}

/// Why a page cannot be used (`GNTST_*` in `grant_table.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GrantError {
    /// There is no such reference, or it grants nothing, or not to us.
    #[error("bad grant reference")]
    BadReference,
    /// It grants less than is asked for.
    #[error("the grant does not permit this access")]
    PermissionDenied,
    /// What it grants is no page of the guest's.
    #[error("the granted frame is no page of the guest's")]
    BadPage,
    /// An offset and length leave the page.
    #[error("the range leaves the granted page")]
    BadCopyArgument,
    /// Anything else.
    #[error("the grant cannot be used")]
    General,
}

impl GrantError {
    /// The number that Xen's interface has for it.
    pub const fn status(self) -> i16 {
        match self {
            Self::General => -1,
            Self::BadReference => -3,
            Self::PermissionDenied => -8,
            Self::BadPage => -9,
            Self::BadCopyArgument => -10,
        }
    }
}

/// The guest's grants to the domain of the back ends.
pub trait Grants: Send + Sync {
    /// Where the granted pages are.
    fn ram(&self) -> &Arc<GuestRam>;

    /// Marks the page that `reference` grants as in use for `access`. Returns its address in
    /// [`Grants::ram`]. Each success is undone by [`Grants::unpin`].
    ///
    /// # Errors
    ///
    /// [`GrantError`], and nothing is in use.
    fn pin(&self, reference: GrantRef, access: Access) -> Result<u64, GrantError>;

    /// Ends a use that [`Grants::pin`] began.
    fn unpin(&self, reference: GrantRef, access: Access);
}

/// Grants in use for one request; dropping it ends their use.
pub(crate) struct Pins<'a> {
    grants: &'a dyn Grants,
    held: Vec<(GrantRef, Access)>,
}

impl<'a> Pins<'a> {
    pub(crate) fn new(grants: &'a dyn Grants) -> Self {
        Self { grants, held: Vec::new() }
    }

    /// Takes the page that `reference` grants into use; returns its address.
    pub(crate) fn page(&mut self, reference: GrantRef, access: Access) -> Result<u64, GrantError> {
        let address = self.grants.pin(reference, access)?;
        self.held.push((reference, access));
        Ok(address)
    }

    /// Takes part of a page into use.
    pub(crate) fn range(
        &mut self,
        reference: GrantRef,
        access: Access,
        offset: u32,
        length: u32,
    ) -> Result<DmaRange, GrantError> {
        if offset.checked_add(length).is_none_or(|end| end > PAGE) {
            return Err(GrantError::BadCopyArgument);
        }
        let address = self.page(reference, access)? + u64::from(offset);
        Ok(DmaRange { address, length })
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        for (reference, access) in self.held.drain(..) {
            self.grants.unpin(reference, access);
        }
    }
}

/// Granted pages in use for as long as this lives, such as those of a ring.
pub(crate) struct LastingPins {
    grants: Arc<dyn Grants>,
    held: Vec<(GrantRef, u64)>,
}

impl LastingPins {
    /// Takes all pages into use, for writing.
    pub(crate) fn new(
        grants: &Arc<dyn Grants>,
        references: &[GrantRef],
    ) -> Result<Self, GrantError> {
        let mut pins = Self { grants: Arc::clone(grants), held: Vec::new() };
        for &reference in references {
            let address = grants.pin(reference, Access::Write)?;
            pins.held.push((reference, address));
        }
        Ok(pins)
    }

    /// The addresses of the pages, in their order.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        self.held.iter().map(|(_, address)| *address).collect()
    }
}

impl Drop for LastingPins {
    fn drop(&mut self) {
        for (reference, _) in self.held.drain(..) {
            self.grants.unpin(reference, Access::Write);
        }
    }
}
