//! What the paths of translated code cost, each in nanoseconds an event: `cargo bench -p ambos-translate`.
//!
//! Each path runs in a loop of guest code; what the same loop costs without it is taken off. The
//! counters of the translator show that the path is the one that is meant. Medians of several runs.

#[path = "../tests/common/mod.rs"]
mod common;

use ambos_vcpu::Engine;
use common::{CODE, DATA};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress};

/// Runs of each loop.
const RUNS: usize = 7;
/// Distance of two pages that share a slot of the TLB's first level.
const CONFLICT: u64 = 0x1000 * ambos_interpret::mmu::ENTRIES as u64;

/// One path.
struct Path {
    name: &'static str,
    /// The loop's body.
    body: &'static [u8],
    /// How often an iteration takes the path.
    events: u32,
    iterations: u64,
    /// A counter of the translator that counts it.
    counter: Option<&'static str>,
}

const PATHS: &[Path] = &[
    Path {
        name: "memory operand that the TLB's first level has (throughput)",
        // mov rax, [rbx]; mov rdx, [rsi]
        body: &[0x48, 0x8b, 0x03, 0x48, 0x8b, 0x16],
        events: 2,
        iterations: 5_000_000,
        counter: None,
    },
    Path {
        name: "the same, each address from the one before (latency)",
        // mov rbx, [rbx], four times
        body: &[0x48, 0x8b, 0x1b, 0x48, 0x8b, 0x1b, 0x48, 0x8b, 0x1b, 0x48, 0x8b, 0x1b],
        events: 4,
        iterations: 2_000_000,
        counter: None,
    },
    Path {
        name: "second operand of a group",
        // mov rax, [rbx]; mov rdx, [rbx+8]; mov rax, [rbx+16]; mov rdx, [rbx+24]
        body: &[0x48, 0x8b, 0x03, 0x48, 0x8b, 0x53, 8, 0x48, 0x8b, 0x43, 16, 0x48, 0x8b, 0x53, 24],
        events: 4,
        iterations: 5_000_000,
        counter: None,
    },
    Path {
        name: "memory operand that keeps flags, and what wants them back",
        // cmp rax, rax; lea rsi, [rbx+rax]; mov rdx, [rsi]; setb dl, with rax zero
        body: &[0x48, 0x39, 0xc0, 0x48, 0x8d, 0x34, 0x03, 0x48, 0x8b, 0x16, 0x0f, 0x92, 0xc2],
        events: 1,
        iterations: 5_000_000,
        counter: None,
    },
    Path {
        name: "memory operand that only the TLB's second level has",
        // mov rdx, [rbx]; mov rdx, [rdi]
        body: &[0x48, 0x8b, 0x13, 0x48, 0x8b, 0x17],
        events: 2,
        iterations: 2_000_000,
        counter: None,
    },
    Path {
        name: "INVLPG and the TLB miss after it",
        // invlpg [rbx]; mov rdx, [rbx]
        body: &[0x0f, 0x01, 0x3b, 0x48, 0x8b, 0x13],
        events: 1,
        iterations: 200_000,
        counter: Some("TLB misses"),
    },
    Path {
        name: "call to another page and return, by the jump cache",
        // call +0x1000 - 2 - 5 from offset 2
        body: &[0xe8, 0xf9, 0x0f, 0, 0],
        events: 1,
        iterations: 5_000_000,
        counter: None,
    },
    Path {
        name: "instruction of the interpreter in a block",
        // sldt eax
        body: &[0x0f, 0x00, 0xc0],
        events: 1,
        iterations: 500_000,
        counter: Some("instructions served by the interpreter in place"),
    },
    Path {
        name: "write to the page of running code, and its translation anew",
        // inc byte ptr [rbp]
        body: &[0xfe, 0x45, 0x00],
        events: 1,
        iterations: 20_000,
        counter: Some("blocks invalidated"),
    },
];

/// The time that a loop around `body` takes, and how often a counter counted in the last run.
fn measure(body: &[u8], iterations: u64, counter: Option<&str>) -> (Duration, u64) {
    let (mut engine, ram, _) = common::translator();
    let memory = ram.memory();
    let write = |value: u64, at: u64| memory.write_obj(value, GuestAddress(at)).unwrap();
    // A large page there, and what the addresses in the registers hold.
    write(CONFLICT | 0x87, 0x3000 + (CONFLICT >> 21) * 8);
    write(DATA, DATA);
    memory.write_obj(0xc3_u8, GuestAddress(CODE + 0x1000)).unwrap();
    // nop; nop; body; dec rcx; jnz; hlt
    let mut code = vec![0x90, 0x90];
    code.extend(body);
    common::close_loop(&mut code, &[0x48, 0xff, 0xc9]);
    let mut start = common::state();
    start.gpr[0] = 0;
    start.gpr[3] = DATA;
    start.gpr[5] = CODE + 0x800;
    start.gpr[6] = DATA + 0x1000;
    start.gpr[7] = DATA + CONFLICT;
    let count = |engine: &dyn Engine| {
        let found = engine.counters().into_iter().find(|&(name, _)| Some(name) == counter);
        found.map_or(0, |(_, count)| count)
    };
    let (mut times, mut counted) = (Vec::new(), 0);
    for _ in 0..RUNS {
        start.gpr[1] = iterations;
        let before = count(&engine);
        let begin = Instant::now();
        common::run(&mut engine, &ram, &start, &code);
        times.push(begin.elapsed());
        counted = count(&engine) - before;
    }
    times.sort_unstable();
    (times[RUNS / 2], counted)
}

fn main() {
    let (empty, _) = measure(&[], 20_000_000, None);
    let turn = empty.as_secs_f64() / 20e6;
    println!("{:7.2} ns  turn of a loop: a block that is linked to itself and polls", turn * 1e9);
    for path in PATHS {
        let (time, counted) = measure(path.body, path.iterations, path.counter);
        let each = time.as_secs_f64() / path.iterations as f64 - turn;
        println!("{:7.2} ns  {}", each * 1e9 / f64::from(path.events), path.name);
        if let Some(counter) = path.counter
            && counted < path.iterations / 2
        {
            println!("            but there were only {counted} {counter}");
        }
    }
}
