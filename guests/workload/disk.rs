//! What works the first disk, past the guest's cache.

use crate::bench::{Bench, Failure, refused};
use crate::{memory, sys};

/// Names of the first disk: IDE or SCSI, virtio, Xen.
const NAMES: [&str; 3] = ["/dev/vda", "/dev/xvda", "/dev/sda"];
/// Read and write, past the cache.
const DIRECT: usize = 0x4002;
const END: usize = 2;
/// The part of the disk that is used.
const SPAN: usize = 32 << 20;

struct Disk {
    file: usize,
    span: usize,
    /// Memory to read into and write from.
    buffer: usize,
}

const BUFFER: usize = 1 << 18;

fn open(flags: usize) -> Result<Disk, Failure> {
    let mut error = Failure::Skipped("the guest has no disk");
    for name in NAMES {
        let path = sys::CString::new(name);
        match sys::call3(sys::OPEN, path.address(), flags, 0) {
            Ok(file) => {
                let size = sys::call3(sys::LSEEK, file, 0, END).map_err(refused("lseek"))?;
                if size < BUFFER {
                    return Err(Failure::Skipped("the disk is too small"));
                }
                let buffer = memory::map(BUFFER)?;
                return Ok(Disk { file, span: size.min(SPAN), buffer });
            }
            // No such file, no such device.
            Err(-2 | -6 | -19) => {}
            Err(number) => error = Failure::System("opening the disk", number),
        }
    }
    Err(error)
}

/// Reads blocks of 4 KiB in random order, one after the other. One operation is one block.
pub(crate) fn random(bench: &mut Bench) -> Result<(), Failure> {
    const BLOCK: usize = 4096;
    let disk = open(DIRECT)?;
    let mut seed = 88_172_645_463_325_252_u64;
    bench.measure(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let offset = seed as usize % (disk.span / BLOCK) * BLOCK;
        let arguments = [disk.file, disk.buffer, BLOCK, offset, 0, 0];
        sys::call(sys::PREAD, arguments).map_err(refused("reading the disk"))?;
        Ok(1)
    })
}

/// Reads from one end to the other in pieces of 256 KiB. One operation is one byte.
pub(crate) fn sequential(bench: &mut Bench) -> Result<(), Failure> {
    let disk = open(DIRECT)?;
    let mut offset = 0;
    bench.measure(|| {
        let arguments = [disk.file, disk.buffer, BUFFER, offset, 0, 0];
        sys::call(sys::PREAD, arguments).map_err(refused("reading the disk"))?;
        offset = (offset + BUFFER) % (disk.span / BUFFER * BUFFER);
        Ok(BUFFER as u64)
    })
}

/// Writes a block of 4 KiB and waits until it is on the medium. One operation is one block.
pub(crate) fn fsync(bench: &mut Bench) -> Result<(), Failure> {
    const BLOCK: usize = 4096;
    let disk = open(DIRECT)?;
    let mut offset = 0;
    bench.measure(|| {
        let arguments = [disk.file, disk.buffer, BLOCK, offset, 0, 0];
        sys::call(sys::PWRITE, arguments).map_err(refused("writing the disk"))?;
        sys::call3(sys::FSYNC, disk.file, 0, 0).map_err(refused("fsync"))?;
        offset = (offset + BLOCK) % (disk.span / BLOCK * BLOCK);
        Ok(1)
    })
}
