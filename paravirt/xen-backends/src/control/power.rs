//! What the guest can be asked to do through its `control` nodes.

/// A request to the guest's operating system (`control/shutdown`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// Shut down and switch off.
    PowerOff,
    /// Shut down and start again.
    Reboot,
}

impl PowerAction {
    /// The word that the guest understands.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reboot => "reboot",
        }
    }

    /// The node by which a guest says that it does this when asked to.
    pub(super) const fn feature(self) -> &'static str {
        match self {
            Self::PowerOff => "feature-poweroff",
            Self::Reboot => "feature-reboot",
        }
    }
}
