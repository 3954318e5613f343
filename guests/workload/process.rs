//! What works the kernel's entry and its scheduler: system calls, processes, switches between them.

use crate::bench::{Bench, Failure, now, refused};
use crate::output::{self, Digits};
use crate::sys::{self, CString};

/// The cheapest system call there is. One operation is one call.
pub(crate) fn syscall(bench: &mut Bench) -> Result<(), Failure> {
    bench.measure(|| {
        for _ in 0..256 {
            sys::call3(sys::GETPPID, 0, 0, 0).map_err(refused("getppid"))?;
        }
        Ok(256)
    })
}

/// A child that executes this program, which does nothing. One operation is the child's whole life.
pub(crate) fn fork_exec(bench: &mut Bench) -> Result<(), Failure> {
    bench.measure(|| {
        let status = in_child(|| execute("/proc/self/exe", &["ambos-workload", "nothing"]))
            .map_err(refused("fork"))?;
        if status == 0 { Ok(1) } else { Err(Failure::Skipped("the child could not be executed")) }
    })
}

/// Two processes on one processor that wait for each other. One operation is one switch.
pub(crate) fn context_switch(bench: &mut Bench) -> Result<(), Failure> {
    ping_pong(bench, [0, 0])
}

/// Two processes on two processors that wake each other. One operation is one wake-up, which needs
/// an interrupt from one processor to the other.
pub(crate) fn wake_up(bench: &mut Bench) -> Result<(), Failure> {
    if pin(1).is_err() {
        return Err(Failure::Skipped("the guest has one processor"));
    }
    ping_pong(bench, [0, 1])
}

/// Keeps this process on one processor.
fn pin(cpu: usize) -> Result<(), sys::Errno> {
    let mask = 1u64 << cpu;
    sys::call3(sys::SCHED_SETAFFINITY, 0, 8, (&raw const mask) as usize).map(drop)
}

fn ping_pong(bench: &mut Bench, cpus: [usize; 2]) -> Result<(), Failure> {
    let (there, back) = (pipe()?, pipe()?);
    let child = sys::call3(sys::FORK, 0, 0, 0).map_err(refused("fork"))?;
    if child == 0 {
        let _ = pin(cpus[1]);
        // The other end closes when the parent is done.
        close(there[1]);
        while receive(there[0]) && send(back[1]) {}
        sys::exit(0);
    }
    pin(cpus[0]).map_err(refused("sched_setaffinity"))?;
    let result = bench.measure(|| {
        for _ in 0..16 {
            if !send(there[1]) || !receive(back[0]) {
                return Err(Failure::Skipped("the other process is gone"));
            }
        }
        Ok(32)
    });
    close(there[1]);
    let _ = wait(child);
    result
}

fn pipe() -> Result<[usize; 2], Failure> {
    let mut ends = [0i32; 2];
    sys::call3(sys::PIPE, ends.as_mut_ptr() as usize, 0, 0).map_err(refused("pipe"))?;
    Ok(ends.map(|end| end as usize))
}

fn close(file: usize) {
    let _ = sys::call3(sys::CLOSE, file, 0, 0);
}

fn send(file: usize) -> bool {
    let byte = 0u8;
    sys::call3(sys::WRITE, file, (&raw const byte) as usize, 1) == Ok(1)
}

fn receive(file: usize) -> bool {
    let mut byte = 0u8;
    sys::call3(sys::READ, file, (&raw mut byte) as usize, 1) == Ok(1)
}

/// Replaces this process. Returns the exit status of one that could not be replaced.
fn execute(path: &str, words: &[&str]) -> i32 {
    const WORDS: usize = 32;
    let path = CString::new(path);
    let strings: [CString; WORDS] =
        core::array::from_fn(|index| CString::new(words.get(index).copied().unwrap_or("")));
    let mut addresses = [0usize; WORDS + 1];
    for (address, string) in addresses.iter_mut().zip(&strings).take(words.len()) {
        *address = string.address();
    }
    let variable = CString::new("PATH=/bin");
    let environment = [variable.address(), 0];
    let _ = sys::call3(
        sys::EXECVE,
        path.address(),
        addresses.as_ptr() as usize,
        environment.as_ptr() as usize,
    );
    127
}

/// Runs `life` in a child and returns its exit status; 128 and more for one that died of a signal.
pub(crate) fn in_child(life: impl FnOnce() -> i32) -> Result<i32, sys::Errno> {
    let child = sys::call3(sys::FORK, 0, 0, 0)?;
    if child == 0 {
        sys::exit(life());
    }
    wait(child)
}

/// Waits for a child and returns its exit status as [`in_child`] does.
pub(crate) fn wait(child: usize) -> Result<i32, sys::Errno> {
    let mut status = 0i32;
    sys::call3(sys::WAIT4, child, (&raw mut status) as usize, 0)?;
    Ok(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
}

/// Prints how long a command of the shell's takes, and passes its exit status on.
pub(crate) fn time(command: &[&str]) -> i32 {
    let start = now();
    let status = in_child(|| {
        // A name without a slash is looked for where all programs are.
        if command[0].contains('/') {
            execute(command[0], command)
        } else {
            let mut path = [0u8; 255];
            let name = b"/bin/".iter().chain(command[0].as_bytes());
            let mut length = 0;
            for (to, from) in path.iter_mut().zip(name) {
                *to = *from;
                length += 1;
            }
            execute(core::str::from_utf8(&path[..length]).unwrap_or(""), command)
        }
    });
    let elapsed = now().saturating_sub(start);
    let status = status.unwrap_or(126);
    let (mut a, mut b) = (Digits::default(), Digits::default());
    output::line(&["time ", a.of(elapsed), " ", b.of(status.unsigned_abs().into())]);
    status
}
