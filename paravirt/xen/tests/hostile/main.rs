//! A guest that asks for whatever random bytes say: nothing panics, every request ends, and at no time
//! can the guest write to a page table or see a frame that is not its own. The fuzz target does the same
//! with better chosen bytes.

mod cpu;
mod guest;

#[test]
fn random_guests_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut byte = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    for round in 0..300 {
        let data: Vec<u8> = (0..500 + round * 20).map(|_| byte()).collect();
        guest::run(&data);
    }
}
