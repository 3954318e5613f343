//! States of the halves of a device (`io/xenbus.h`).

/// How far a half of a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Unknown = 0,
    Initialising = 1,
    InitWait = 2,
    Initialised = 3,
    Connected = 4,
    Closing = 5,
    Closed = 6,
    Reconfiguring = 7,
    Reconfigured = 8,
}

impl State {
    const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// What a value says; nothing sensible is unknown.
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let number = text.and_then(|text| text.trim().parse::<usize>().ok());
        number.and_then(|number| Self::ALL.get(number).copied()).unwrap_or(Self::Unknown)
    }

    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_states() {
        for state in State::ALL {
            assert_eq!(State::parse(Some(&state.number().to_string())), state);
        }
        for text in [None, Some(""), Some("9"), Some("-1"), Some("x")] {
            assert_eq!(State::parse(text), State::Unknown);
        }
    }
}
