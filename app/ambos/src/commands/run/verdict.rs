//! What the end of a guest means for the exit status.

use super::console::Seen;
use super::machine::Outcome;
use crate::failure::Failure;
use ambos_guest::exec::Phase;

/// The exit status, or the failure to report; `signal` is the one that asked the monitor to end.
pub(super) fn verdict(outcome: Outcome, seen: Seen, signal: Option<i32>) -> Result<u8, Failure> {
    if let Some(error) = seen.broken {
        return Err(Failure::monitor("cannot write what the guest prints", error));
    }
    if let Some(signal) = signal {
        // As shells report a program that died of a signal.
        return Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX));
    }
    if let Some(Phase::Ended(status)) = seen.phase {
        return Ok(status);
    }
    let crashed = |reason: &str| Err(Failure::Crashed(reason.to_owned()));
    match (outcome, seen.panic, seen.phase) {
        (Outcome::DebugExit(status), _, _) => Ok(status),
        (Outcome::Failed(failure), _, _) => Err(failure),
        (Outcome::Stopped, _, _) => Ok(0),
        (Outcome::Crashed(reason), Some(panic), _) => {
            crashed(&format!("kernel panic: {panic}; then {reason}"))
        }
        (Outcome::Crashed(reason), None, _) => crashed(&reason),
        (Outcome::Reset | Outcome::PoweredOff, Some(panic), _) => {
            crashed(&format!("kernel panic: {panic}"))
        }
        (Outcome::Reset, None, Some(_)) => crashed("it restarted before the command had ended"),
        (Outcome::PoweredOff, None, Some(_)) => {
            crashed("it powered off before the command had ended")
        }
        (Outcome::Reset | Outcome::PoweredOff, None, None) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(phase: Option<Phase>, panic: Option<&str>) -> Seen {
        Seen { phase, panic: panic.map(str::to_owned), ..Seen::default() }
    }

    fn status(outcome: Outcome, seen: Seen) -> u8 {
        verdict(outcome, seen, None).unwrap_or_else(|failure| failure.status())
    }

    #[test]
    fn a_guest_that_powers_off_is_a_success() {
        assert_eq!(status(Outcome::PoweredOff, seen(None, None)), 0);
        assert_eq!(status(Outcome::Stopped, seen(None, None)), 0);
        assert_eq!(status(Outcome::Stopped, seen(Some(Phase::Running), None)), 0);
    }

    #[test]
    fn a_guest_that_crashes_is_status_3() {
        let crashed = || Outcome::Crashed("triple fault".to_owned());
        assert_eq!(status(crashed(), seen(None, None)), 3);
        assert_eq!(status(Outcome::Reset, seen(None, Some("no init"))), 3);
        let failure = verdict(crashed(), seen(None, Some("no init")), None).unwrap_err();
        let line = "the guest crashed: kernel panic: no init; then triple fault";
        assert_eq!(failure.line(), line);
    }

    #[test]
    fn a_command_gives_its_status_or_a_reason() {
        let ended = Some(Phase::Ended(42));
        assert_eq!(status(Outcome::PoweredOff, seen(ended, None)), 42);
        // The result is there, whatever happened after it.
        assert_eq!(status(Outcome::Crashed(String::new()), seen(ended, None)), 42);
        for phase in [Phase::Booting, Phase::Running] {
            assert_eq!(status(Outcome::PoweredOff, seen(Some(phase), None)), 3);
            assert_eq!(status(Outcome::Reset, seen(Some(phase), None)), 3);
        }
    }

    #[test]
    fn the_guest_or_a_signal_may_choose_the_status() {
        assert_eq!(status(Outcome::DebugExit(7), seen(None, None)), 7);
        assert_eq!(verdict(Outcome::Stopped, seen(None, None), Some(15)).unwrap(), 143);
    }

    #[test]
    fn a_console_that_broke_is_the_monitors_failure() {
        let broken = Some(std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(status(Outcome::Stopped, Seen { broken, ..Seen::default() }), 1);
    }
}
