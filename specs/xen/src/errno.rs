//! Error numbers (`public/errno.h`).

/// Why a hypercall failed; it returns the negated number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
#[expect(missing_docs, reason = "the variants are the errors of these names")]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EIO = 5,
    E2BIG = 7,
    EAGAIN = 11,
    ENOMEM = 12,
    EACCES = 13,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ENOSPC = 28,
    ERANGE = 34,
    ENOSYS = 38,
    ETIME = 62,
    EOVERFLOW = 75,
    EOPNOTSUPP = 95,
}

impl Errno {
    /// What the hypercall returns.
    pub const fn result(self) -> u64 {
        (self as i64).wrapping_neg() as u64
    }
}
