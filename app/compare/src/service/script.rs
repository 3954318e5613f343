//! What the guest's shell runs for a service.

use super::{Place, Service};
use std::fmt::Write;

/// Where the script and its parts are in the guest.
pub(super) const DIRECTORY: &str = "ambos-service";
/// The most that is shown of what a service printed, in lines.
const LOG_LINES: u32 = 5;

/// The files of the script: name and contents.
pub(super) fn files(service: &Service) -> Vec<(String, String)> {
    let mut files = vec![("run".to_owned(), run(service)), ("load".to_owned(), load(service))];
    if let Some(command) = &service.command {
        files.push(("command".to_owned(), command.clone()));
    }
    if let Some(ready) = &service.ready {
        files.push(("ready".to_owned(), ready.command.clone()));
    }
    files
}

fn load(service: &Service) -> String {
    service.load.command.clone()
}

fn run(service: &Service) -> String {
    let name = &service.name;
    let mut script = format!("#!/bin/busybox sh\ncd /{DIRECTORY}\necho ready\n");
    let fail = |script: &mut String, indent: &str, reason: &str, log: &str| {
        let _ = write!(
            script,
            "{indent}echo \"failed {name} {reason}\"\n\
             {indent}cat {log} 2>/dev/null | grep -v '^time [0-9]* [0-9]*$' | \
             tail -n {LOG_LINES} | sed 's/^/log /'\n\
             {indent}exit 0\n"
        );
    };
    if service.command.is_some() {
        script.push_str("sh ./command > /tmp/service.log 2>&1 &\nservice=$!\n");
    }
    if let Some(ready) = &service.ready {
        let tries = u64::from(ready.timeout) * 5;
        let _ = write!(
            script,
            "tries=0\nuntil sh ./ready > /tmp/ready.log 2>&1; do\n    tries=$((tries + 1))\n"
        );
        if service.command.is_some() {
            script.push_str("    if ! kill -0 $service 2>/dev/null && [ $tries -gt 5 ]; then\n");
            // Many services go to the background by themselves: their own end means nothing yet.
            let _ = writeln!(script, "        wait $service; status=$?");
            script.push_str("        if [ $status -ne 0 ]; then\n");
            fail(
                &mut script,
                "            ",
                "the service ended with status $status",
                "/tmp/service.log",
            );
            script.push_str("        fi\n    fi\n");
        }
        let _ = writeln!(script, "    if [ $tries -ge {tries} ]; then");
        let reason = format!("it was not ready within {} s", ready.timeout);
        fail(&mut script, "        ", &reason, "/tmp/service.log /tmp/ready.log");
        script.push_str("    fi\n    sleep 0.2\ndone\n");
    }
    script.push_str("echo service-ready\n");
    match service.load.from {
        Place::Guest => guest_load(&mut script, service, fail),
        Place::Host => {
            // The window stays open until the host ends the guest.
            let _ = writeln!(script, "ambos-workload mark open {name}");
            script.push_str("while :; do sleep 3600; done\n");
        }
    }
    script
}

fn guest_load(
    script: &mut String,
    service: &Service,
    fail: impl Fn(&mut String, &str, &str, &str),
) {
    let (name, timeout) = (&service.name, service.load.timeout);
    let _ = write!(
        script,
        "for repetition in $(seq {}); do\n\
         \x20   ambos-workload mark open {name}\n\
         \x20   ambos-workload time timeout {timeout} sh ./load > /tmp/load.log 2>&1\n\
         \x20   status=$?\n\
         \x20   ambos-workload mark close {name}\n\
         \x20   if [ $status -ge 124 ] && [ $status -ne 126 ] && [ $status -ne 127 ]; then\n",
        service.load.repetitions
    );
    fail(script, "        ", &format!("the load did not end within {timeout} s"), "/tmp/load.log");
    script.push_str("    elif [ $status -ne 0 ]; then\n");
    fail(script, "        ", "the load command ended with status $status", "/tmp/load.log");
    script.push_str("    fi\n    sed '/^time [0-9]* 0$/!s/^/load /' /tmp/load.log\ndone\n");
}
