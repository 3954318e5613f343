//! A boot of a service, and the value that comes out of it.

use super::{Place, Service, script};
use crate::collected::Collected;
use crate::runner::{Errand, Forward, Outcome, Root, Said, Stop, Window};
use crate::workload::{Better, Unit};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest boot that is waited for: large root file systems take longer.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Longest reason that is passed on, in characters.
const REASON: usize = 300;
/// The variable by which a load on the host is told the port.
const PORT_VARIABLE: &str = "AMBOS_PORT";

/// A boot in which the guest serves, and is loaded.
///
/// # Errors
///
/// [`io::Error`] if the host has no free port.
pub(crate) fn errand(
    service: &Service,
    initrd: PathBuf,
    memory: u64,
    cpus: u32,
) -> io::Result<Errand> {
    let forward = match service.load.port {
        Some(guest) => Some(Forward { host: free_port()?, guest }),
        None => None,
    };
    let ready = service.ready.as_ref().map_or(0, |ready| ready.timeout);
    let load = service.load.timeout.saturating_mul(service.load.repetitions);
    Ok(Errand {
        command: format!("sh /{}/run", script::DIRECTORY),
        root: Root::Service(initrd),
        memory: memory.max(service.memory.unwrap_or(0)),
        cpus,
        disk: false,
        network: forward.is_some(),
        forward,
        limit: BOOT_LIMIT + Duration::from_secs(u64::from(ready) + u64::from(load)),
    })
}

/// A port that nobody listens at, now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// What a load command gave.
#[derive(Debug, Clone, Default, PartialEq)]
struct Run {
    seconds: f64,
    output: String,
}

/// Loads the service from the host as soon as it is ready, and gathers what comes out.
#[derive(Debug, Default)]
pub(crate) struct HostLoad {
    runs: Vec<Run>,
    /// Why there are no more runs: the load's failure, and not the guest's.
    failure: Option<String>,
}

impl HostLoad {
    /// Takes what the guest says; loads when the service is ready, then has the guest ended.
    pub(crate) fn listen(
        &mut self,
        service: &Service,
        errand: &Errand,
        said: &Said,
        interrupt: &AtomicBool,
    ) -> Option<Stop> {
        // A load in the guest ends the guest by itself, and its last words say why it failed.
        if *said != Said::ServiceReady || service.load.from == Place::Guest {
            return None;
        }
        let port = errand.forward?.host;
        for _ in 0..service.load.repetitions {
            match run_on_host(service, port, interrupt) {
                Ok(run) => self.runs.push(run),
                Err(reason) => {
                    self.failure = Some(reason);
                    break;
                }
            }
        }
        Some(Stop::Done)
    }
}

fn run_on_host(service: &Service, port: u16, interrupt: &AtomicBool) -> Result<Run, String> {
    let output =
        tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file.try_clone()?, file)));
    let (out, error, mut file) = output.map_err(|error| error.to_string())?;
    let start = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &service.load.command])
        .env(PORT_VARIABLE, port.to_string())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(error)
        // It may have children, which are to end with it.
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the load command cannot be started: {error}"))?;
    let end = |child: &mut Child| {
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            // Whoever of them has ended by itself cannot be ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    };
    let deadline = start + Duration::from_secs(service.load.timeout.into());
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if interrupt.load(Ordering::Relaxed) => {
                end(&mut child);
                return Err("it was interrupted".to_owned());
            }
            None if Instant::now() >= deadline => {
                end(&mut child);
                return Err(format!("the load did not end within {} s", service.load.timeout));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut file)
        .and_then(|()| io::Read::read_to_end(&mut file, &mut bytes))
        .map_err(|error| error.to_string())?;
    let output = String::from_utf8_lossy(&bytes).into_owned();
    if status.success() {
        return Ok(Run { seconds, output });
    }
    let last = output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(shorten(&format!("the load command ended with {status}: {last}")))
}

/// Takes what a boot gave: the value of its best repetition, or why there is none.
pub(crate) fn take(
    service: &Service,
    outcome: &Outcome,
    host: &HostLoad,
    collected: &mut Collected,
) {
    let runs = match service.load.from {
        Place::Guest => guest_runs(&outcome.said),
        Place::Host => host.runs.clone(),
    };
    if let Some(reason) = &host.failure {
        return collected.fail(reason);
    }
    let values: Result<Vec<f64>, String> = runs.iter().map(|run| value(service, run)).collect();
    let best = values.and_then(|values| {
        let best = values.into_iter().reduce(|a, b| match service.metric.better {
            Better::Lower => a.min(b),
            Better::Higher => a.max(b),
        });
        best.ok_or_else(|| reason(outcome))
    });
    match best {
        Ok(value) if outcome.failure.is_none() || service.load.from == Place::Host => {
            let windows: Vec<&Window> =
                outcome.windows.iter().filter(|window| window.name == service.name).collect();
            let each = runs.len() as f64 / windows.len().max(1) as f64;
            windows.into_iter().for_each(|window| collected.count(window, each));
            collected.sample(value);
        }
        Ok(_) => collected.fail(&reason(outcome)),
        Err(reason) => collected.fail(&reason),
    }
}

/// The runs of the load command that the guest told of.
fn guest_runs(said: &[Said]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut run = Run::default();
    for said in said {
        match said {
            Said::Load(line) => {
                run.output.push_str(line);
                run.output.push('\n');
            }
            // The last line of a run.
            Said::Time { nanoseconds, .. } => {
                run.seconds = *nanoseconds as f64 / 1e9;
                runs.push(std::mem::take(&mut run));
            }
            _ => {}
        }
    }
    runs
}

fn value(service: &Service, run: &Run) -> Result<f64, String> {
    let Some(pattern) = &service.metric.pattern else {
        return Ok(run.seconds);
    };
    let found = pattern.captures_iter(&run.output).last();
    let text = found.as_ref().and_then(|found| found.get(1)).map(|group| group.as_str());
    match text.map(|text| (text, text.replace(',', "").parse::<f64>())) {
        Some((_, Ok(value))) if value.is_finite() => Ok(value),
        Some((text, _)) => Err(shorten(&format!("the metric's value is no number: {text:?}"))),
        None => Err("the metric's pattern is not in the load's output".to_owned()),
    }
}

/// Why there is no value, with the last words of what failed.
fn reason(outcome: &Outcome) -> String {
    let failed = outcome.said.iter().find_map(|said| match said {
        Said::Failed { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    let log = outcome.said.iter().rev().find_map(|said| match said {
        Said::Log(line) if !line.trim().is_empty() => Some(line.trim()),
        _ => None,
    });
    let reason = failed.or_else(|| outcome.failure.clone());
    match (reason, log) {
        (Some(reason), Some(log)) => shorten(&format!("{reason}: {log}")),
        (Some(reason), None) => reason,
        (None, _) => "the load gave nothing".to_owned(),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(REASON).collect()
}

/// The unit of a service's value.
pub(crate) fn unit(service: &Service) -> Unit {
    service.metric.unit.clone()
}
