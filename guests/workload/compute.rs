//! What needs no kernel: the processor alone.

use crate::bench::{Bench, Failure};
use core::hint::black_box;

/// A hash and a sort of small numbers: shifts, multiplications, compares and branches. One operation
/// is one number hashed and sorted in.
pub(crate) fn integer(bench: &mut Bench) -> Result<(), Failure> {
    const COUNT: usize = 512;
    let mut numbers = [0u32; COUNT];
    let mut seed = 1u64;
    bench.measure(|| {
        for number in &mut numbers {
            // Xorshift, then a multiplication: Marsaglia's generator.
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            *number = (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32;
        }
        shell_sort(&mut numbers);
        black_box(&numbers);
        Ok(COUNT as u64)
    })
}

fn shell_sort(numbers: &mut [u32]) {
    for gap in [301, 132, 57, 23, 10, 4, 1] {
        for index in gap..numbers.len() {
            let number = numbers[index];
            let mut at = index;
            while at >= gap && numbers[at - gap] > number {
                numbers[at] = numbers[at - gap];
                at -= gap;
            }
            numbers[at] = number;
        }
    }
}

/// Products of small matrices of double precision. One operation is a multiplication and an addition.
pub(crate) fn float(bench: &mut Bench) -> Result<(), Failure> {
    const SIDE: usize = 32;
    let mut a = [[0.0f64; SIDE]; SIDE];
    for (row, values) in a.iter_mut().enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            *value = 1.0 / (1 + row + column) as f64;
        }
    }
    let mut b = a;
    bench.measure(|| {
        let mut product = [[0.0f64; SIDE]; SIDE];
        for row in 0..SIDE {
            for inner in 0..SIDE {
                let factor = a[row][inner];
                for column in 0..SIDE {
                    product[row][column] += factor * b[inner][column];
                }
            }
        }
        let scale = 1.0 / product[0][0];
        for (to, from) in b.iter_mut().flatten().zip(product.iter().flatten()) {
            *to = from * scale;
        }
        black_box(&b);
        Ok((SIDE * SIDE * SIDE) as u64)
    })
}
