//! How much the guest knows of being virtualized.

/// A technique of virtualization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Technique {
    /// The guest finds a complete PC and knows nothing.
    #[default]
    Full,
    /// The same PC, with devices made for virtual machines where there are any.
    Hybrid,
    /// A hypervisor in place of the PC: the guest's kernel is one that was ported to Xen.
    Para,
}
