//! Positioned vectored reads and writes between files and guest memory.
//!
//! The standard library's functions take references to bytes, which guest memory must never be
//! lent as: the guest changes it meanwhile. So the buffers go to the system call as raw addresses.

use crate::Slice;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most buffers of one system call (`IOV_MAX`).
const BUFFERS: usize = 1024;

type Call = unsafe extern "C" fn(i32, *const libc::iovec, i32, i64) -> isize;

/// Fills `slices` from `offset` of the file on.
pub(crate) fn read_at(file: BorrowedFd<'_>, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
    transfer(file, offset, slices, libc::preadv, io::ErrorKind::UnexpectedEof)
}

/// Writes the bytes of `slices` from `offset` of the file on.
pub(crate) fn write_at(file: BorrowedFd<'_>, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
    transfer(file, offset, slices, libc::pwritev, io::ErrorKind::WriteZero)
}

fn transfer(
    file: BorrowedFd<'_>,
    mut offset: u64,
    slices: &[Slice<'_>],
    call: Call,
    nothing: io::ErrorKind,
) -> io::Result<()> {
    // Keeps the memory mapped, as far as that is in question, until the transfer is over.
    let guards: Vec<_> = slices.iter().map(Slice::ptr_guard_mut).collect();
    let mut buffers: Vec<libc::iovec> = guards
        .iter()
        .filter(|guard| guard.len() > 0)
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let mut first = 0;
    while first < buffers.len() {
        let batch = &buffers[first..buffers.len().min(first + BUFFERS)];
        let position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        #[expect(unsafe_code, reason = "guest memory must not be lent as references to bytes")]
        // SAFETY: each buffer is the memory of a slice that outlives this call, or a part of it;
        // there are no references to it. The count is that of the batch, at most `BUFFERS`.
        let done = unsafe { call(file.as_raw_fd(), batch.as_ptr(), batch.len() as i32, position) };
        match usize::try_from(done) {
            Ok(0) => return Err(nothing.into()),
            Ok(done) => {
                offset += done as u64;
                first += advance(&mut buffers[first..], done);
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Takes `done` bytes off the front of the buffers; returns how many of them are used up.
fn advance(buffers: &mut [libc::iovec], mut done: usize) -> usize {
    for (index, buffer) in buffers.iter_mut().enumerate() {
        if done < buffer.iov_len {
            buffer.iov_base = buffer.iov_base.cast::<u8>().wrapping_add(done).cast();
            buffer.iov_len -= done;
            return index;
        }
        done -= buffer.iov_len;
    }
    buffers.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;
    use std::os::fd::AsFd;

    #[test]
    fn many_small_buffers_are_one_transfer() {
        let file = tempfile::tempfile().unwrap();
        let memory = Memory::new(1 << 16);
        let bytes: Vec<u8> = (0..6000u32).map(|byte| byte as u8).collect();
        memory.put(0, &bytes);
        let pieces: Vec<(u64, usize)> = (0..3000).map(|piece| (piece * 2, 2)).collect();
        write_at(file.as_fd(), 1000, &memory.slices(&pieces)).unwrap();
        let reversed: Vec<(u64, usize)> = (0..3000).map(|p| (0x8000 + (2999 - p) * 2, 2)).collect();
        read_at(file.as_fd(), 1000, &memory.slices(&reversed)).unwrap();
        for piece in 0..3000 {
            assert_eq!(memory.get(0x8000 + (2999 - piece) * 2, 2), memory.get(piece * 2, 2));
        }
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let memory = Memory::new(4096);
        let error = read_at(file.as_fd(), 0, &memory.slices(&[(0, 200)])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        read_at(file.as_fd(), 0, &memory.slices(&[(0, 0), (8, 100), (0, 0)])).unwrap();
    }
}
