//! A device's back half as the store shows it.

use super::state::State;
use crate::events::{BindError, GuestPort};
use crate::grants::{GrantError, GrantRef};
use crate::shared::RingError;
use crate::xenstore::{DomainId, Path, Permissions, Store};
use std::str::FromStr;
use thiserror::Error;

/// Why the halves of a device cannot be connected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ConnectError {
    /// The front half did not write a value, or none that makes sense.
    #[error("no usable {0} in the front end's node")]
    Value(String),
    #[error("the front end's {name} is {value}, which is not supported")]
    Unsupported { name: &'static str, value: String },
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// What a kind of device does when its state changes.
pub(crate) trait BackHalf: Send {
    /// What the front half finds before it says anything: features, mostly.
    fn features(&self) -> Vec<(&'static str, String)>;

    /// Connects to what the front half says. Returns what it finds afterwards.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], and nothing is connected.
    fn connect(
        &mut self,
        front: &FrontNode<'_>,
    ) -> Result<Vec<(&'static str, String)>, ConnectError>;

    /// Called when both halves know that they are connected.
    fn connected(&mut self);

    /// Lets everything go that the guest gave.
    fn disconnect(&mut self);
}

/// The values of a front half.
pub(crate) struct FrontNode<'a> {
    store: &'a Store,
    path: &'a Path,
}

impl FrontNode<'_> {
    /// A value, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.store.read(&self.path.join(name))
    }

    /// A number, if it is there and one.
    pub(crate) fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.text(name)?.trim().parse().ok()
    }

    /// Whether a feature is there.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.number::<u32>(name).is_some_and(|value| value != 0)
    }

    fn needed<T: FromStr>(&self, name: &str) -> Result<T, ConnectError> {
        self.number(name).ok_or_else(|| ConnectError::Value(name.to_owned()))
    }

    pub(crate) fn grant(&self, name: &str) -> Result<GrantRef, ConnectError> {
        self.needed(name).map(GrantRef)
    }

    pub(crate) fn port(&self, name: &str) -> Result<GuestPort, ConnectError> {
        self.needed(name).map(GuestPort)
    }

    /// How many queues the front half wants, of at most `limit`, and what the names of each one's
    /// values begin with.
    pub(crate) fn queues(&self, limit: u16) -> Result<Vec<String>, ConnectError> {
        const NAME: &str = "multi-queue-num-queues";
        let count = self.number::<u16>(NAME).unwrap_or(1);
        if count == 0 || count > limit {
            return Err(ConnectError::Unsupported { name: NAME, value: count.to_string() });
        }
        if count == 1 {
            return Ok(vec![String::new()]);
        }
        Ok((0..count).map(|queue| format!("queue-{queue}/")).collect())
    }
}

/// Where a device is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) guest: DomainId,
    /// `vbd`, `vif`.
    pub(crate) class: &'static str,
    /// The device's number.
    pub(crate) number: u32,
}

impl Place {
    pub(crate) fn front(&self) -> Path {
        let class = self.guest.path().join("device").join(self.class);
        class.join(&self.number.to_string())
    }

    pub(crate) fn back(&self) -> Path {
        let class = DomainId::CONTROL.path().join("backend").join(self.class);
        class.join(&self.guest.0.to_string()).join(&self.number.to_string())
    }

    /// Where errors are told.
    fn error(&self) -> Path {
        let class = DomainId::CONTROL.path().join("error").join("backend").join(self.class);
        class.join(&self.guest.0.to_string()).join(&self.number.to_string()).join("error")
    }
}

/// A back half, and how far it is.
pub(crate) struct Device {
    place: Place,
    half: Box<dyn BackHalf>,
    state: State,
}

impl Device {
    /// Makes the nodes of both halves, as the toolstack does, with values for each, and waits for the
    /// front half.
    pub(crate) fn create(
        store: &mut Store,
        place: Place,
        half: Box<dyn BackHalf>,
        front_values: &[(&str, String)],
        back_values: &[(&str, String)],
    ) -> Self {
        let (front, back, guest) = (place.front(), place.back(), place.guest);
        let front_rights = Permissions::of(guest, Some(DomainId::CONTROL));
        let back_rights = Permissions::of(DomainId::CONTROL, Some(guest));
        store.write_for(&back, "", back_rights);
        let common = [
            ("frontend", front.to_string()),
            ("frontend-id", guest.0.to_string()),
            ("online", "1".to_owned()),
            ("state", State::Initialising.number().to_string()),
        ];
        for (name, value) in common.iter().chain(back_values) {
            store.write(&back.join(name), value);
        }
        store.write_for(&front, "", front_rights);
        let common = [
            ("backend", back.to_string()),
            ("backend-id", DomainId::CONTROL.0.to_string()),
            ("state", State::Initialising.number().to_string()),
        ];
        for (name, value) in common.iter().chain(front_values) {
            store.write(&front.join(name), value);
        }
        let mut device = Self { place, half, state: State::Initialising };
        device.wait_for_front(store);
        device
    }

    /// The node whose changes matter here.
    pub(crate) fn watched(&self) -> Path {
        self.place.front().join("state")
    }

    /// How far the back half is.
    #[cfg(test)]
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Does what the front half's state asks for.
    pub(crate) fn front_changed(&mut self, store: &mut Store) {
        match State::parse(store.read(&self.watched())) {
            State::Initialising if self.state == State::Closed => self.wait_for_front(store),
            State::Initialised | State::Connected if self.state == State::InitWait => {
                self.connect(store);
            }
            State::Closing if self.state != State::Closed => {
                self.half.disconnect();
                self.switch(store, State::Closing);
            }
            State::Closed | State::Unknown if self.state != State::Closed => {
                self.half.disconnect();
                self.switch(store, State::Closed);
            }
            _ => {}
        }
    }

    fn wait_for_front(&mut self, store: &mut Store) {
        self.write(store, &self.half.features());
        self.switch(store, State::InitWait);
    }

    fn connect(&mut self, store: &mut Store) {
        let path = self.place.front();
        match self.half.connect(&FrontNode { store, path: &path }) {
            Ok(values) => {
                self.write(store, &values);
                self.switch(store, State::Connected);
                self.half.connected();
            }
            Err(error) => {
                tracing::warn!("{path} cannot be connected: {error}");
                store.write(&self.place.error(), &error.to_string());
                self.half.disconnect();
                self.switch(store, State::Closing);
            }
        }
    }

    fn write(&self, store: &mut Store, values: &[(&'static str, String)]) {
        let back = self.place.back();
        for (name, value) in values {
            store.write(&back.join(name), value);
        }
    }

    fn switch(&mut self, store: &mut Store, state: State) {
        if self.state != state {
            self.state = state;
            store.write(&self.place.back().join("state"), &state.number().to_string());
        }
    }
}
