//! Single integer instructions executed on the host, with the flags they produce.
//!
//! Host and guest share one instruction set, so the exact result of an instruction, *undefined*
//! flags included, is had by executing it. Flags travel as the low twelve bits of RFLAGS;
//! [`ARITHMETIC`] masks the six that these instructions change. `lahf; seto` reads them in two
//! cycles, where `pushfq; pop` takes more and `popfq` about twenty.

use std::arch::asm;
use std::fmt::Debug;

/// CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC: u64 = 0x8d5;
const CF: u64 = 1;
const OF: u64 = 1 << 11;

/// Turns AX after `lahf; seto al` into the layout of RFLAGS.
#[inline(always)]
fn flags_from_ax(ax: u32) -> u64 {
    (u64::from(ax >> 8) & 0xd5) | u64::from(ax & 1) << 11
}

/// What AX must hold for `add al, 0x7f; sahf` to set the arithmetic flags to those of `flags`.
///
/// Some instructions leave flags undefined that in fact depend on what they were before; the result
/// is the processor's own only if it sees them.
#[inline(always)]
fn ax_from_flags(flags: u64) -> u32 {
    (flags as u32 & 0xd5) << 8 | (flags >> 11) as u32 & 1
}

/// An operand width of the integer instructions: `u8`, `u16`, `u32` or `u64`.
///
/// Binary operations take the flags before (only CF matters, and only to some) and return the
/// result with the arithmetic flags after.
pub trait Word: Copy + Eq + Debug + Send + Sync + 'static {
    /// Bytes.
    const SIZE: usize;
    /// Bits.
    const BITS: u32;

    /// The low bits of `value`.
    fn from_u64(value: u64) -> Self;
    /// Zero-extended.
    fn to_u64(self) -> u64;
    /// Sign-extended.
    fn to_i64(self) -> i64;

    /// ADD.
    fn add(self, other: Self, flags: u64) -> (Self, u64);
    /// OR.
    fn or(self, other: Self, flags: u64) -> (Self, u64);
    /// ADC.
    fn adc(self, other: Self, flags: u64) -> (Self, u64);
    /// SBB.
    fn sbb(self, other: Self, flags: u64) -> (Self, u64);
    /// AND; also TEST.
    fn and(self, other: Self, flags: u64) -> (Self, u64);
    /// SUB; also CMP.
    fn sub(self, other: Self, flags: u64) -> (Self, u64);
    /// XOR.
    fn xor(self, other: Self, flags: u64) -> (Self, u64);

    /// INC; CF stays.
    fn inc(self, flags: u64) -> (Self, u64);
    /// DEC; CF stays.
    fn dec(self, flags: u64) -> (Self, u64);
    /// NEG.
    fn neg(self) -> (Self, u64);

    /// ROL; a count of zero (after masking) leaves the flags.
    fn rol(self, count: u8, flags: u64) -> (Self, u64);
    /// ROR.
    fn ror(self, count: u8, flags: u64) -> (Self, u64);
    /// RCL.
    fn rcl(self, count: u8, flags: u64) -> (Self, u64);
    /// RCR.
    fn rcr(self, count: u8, flags: u64) -> (Self, u64);
    /// SHL.
    fn shl(self, count: u8, flags: u64) -> (Self, u64);
    /// SHR.
    fn shr(self, count: u8, flags: u64) -> (Self, u64);
    /// SAR.
    fn sar(self, count: u8, flags: u64) -> (Self, u64);

    /// MUL: low half, high half, flags.
    fn mul(self, other: Self, flags: u64) -> (Self, Self, u64);
    /// One-operand IMUL: low half, high half, flags.
    fn imul(self, other: Self, flags: u64) -> (Self, Self, u64);
    /// DIV of `high:self` by `divisor`: quotient, remainder; `None` is #DE.
    fn div(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
    /// IDIV of `high:self` by `divisor`: quotient, remainder; `None` is #DE.
    fn idiv(self, high: Self, divisor: Self) -> Option<(Self, Self)>;
}

/// Widths above a byte, for the instructions that have no byte form.
pub trait WideWord: Word {
    /// Two-operand IMUL.
    fn imul2(self, other: Self, flags: u64) -> (Self, u64);
    /// SHLD.
    fn shld(self, fill: Self, count: u8, flags: u64) -> (Self, u64);
    /// SHRD.
    fn shrd(self, fill: Self, count: u8, flags: u64) -> (Self, u64);
    /// BT and its relatives' flags: CF is the tested bit (the offset is taken modulo the width).
    fn bt(self, offset: u64, flags: u64) -> u64;
    /// BSF; the destination's old value is returned for a zero source.
    fn bsf(self, old: Self, flags: u64) -> (Self, u64);
    /// BSR; the destination's old value is returned for a zero source.
    fn bsr(self, old: Self, flags: u64) -> (Self, u64);
}

macro_rules! binary {
    ($name:ident, $insn:literal, $class:ident, $size:literal) => {
        #[inline(always)]
        fn $name(self, other: Self, _flags: u64) -> (Self, u64) {
            let mut value = self;
            let ax: u32;
            // SAFETY: one register instruction; AX is declared as changed.
            unsafe {
                asm!(
                    concat!($insn, " {value", $size, "}, {other", $size, "}"),
                    "lahf", "seto al",
                    value = inout($class) value, other = in($class) other, out("eax") ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax))
        }
    };
}

macro_rules! binary_carry {
    ($name:ident, $insn:literal, $class:ident, $size:literal) => {
        #[inline(always)]
        fn $name(self, other: Self, flags: u64) -> (Self, u64) {
            let mut value = self;
            let ax: u32;
            // SAFETY: register instructions; AX is declared as changed.
            unsafe {
                asm!(
                    "bt {flags:e}, 0",
                    concat!($insn, " {value", $size, "}, {other", $size, "}"),
                    "lahf", "seto al",
                    value = inout($class) value, other = in($class) other,
                    flags = in(reg) flags, out("eax") ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax))
        }
    };
}

macro_rules! unary {
    ($name:ident, $insn:literal, $class:ident, $size:literal, $kept:expr) => {
        #[inline(always)]
        fn $name(self, flags: u64) -> (Self, u64) {
            let mut value = self;
            let ax: u32;
            // SAFETY: one register instruction; AX is declared as changed.
            unsafe {
                asm!(
                    concat!($insn, " {value", $size, "}"),
                    "lahf", "seto al",
                    value = inout($class) value, out("eax") ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax) & !$kept | flags & $kept)
        }
    };
}

macro_rules! shift {
    ($name:ident, $insn:literal, $class:ident, $size:literal, $changed:expr) => {
        #[inline(always)]
        fn $name(self, count: u8, flags: u64) -> (Self, u64) {
            // The processor masks the count by 31 (63 for 64 bits); zero leaves the flags alone.
            if count & (if Self::BITS == 64 { 63 } else { 31 }) == 0 {
                return (self, flags & ARITHMETIC);
            }
            let mut value = self;
            let ax: u32;
            // SAFETY: register instructions; AX is declared as changed.
            unsafe {
                asm!(
                    "bt {flags:e}, 0",
                    concat!($insn, " {value", $size, "}, cl"),
                    "lahf", "seto al",
                    value = inout($class) value, in("cl") count,
                    flags = in(reg) flags, out("eax") ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax) & $changed | flags & ARITHMETIC & !$changed)
        }
    };
}

macro_rules! double_shift {
    ($name:ident, $insn:literal, $size:literal) => {
        #[inline]
        fn $name(self, fill: Self, count: u8, flags: u64) -> (Self, u64) {
            if count & (if Self::BITS == 64 { 63 } else { 31 }) == 0 {
                return (self, flags & ARITHMETIC);
            }
            let mut value = self;
            let ax: u32;
            // SAFETY: one register instruction; AX is declared as changed.
            unsafe {
                asm!(
                    concat!($insn, " {value", $size, "}, {fill", $size, "}, cl"),
                    "lahf", "seto al",
                    value = inout(reg) value, fill = in(reg) fill, in("cl") count, out("eax") ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax))
        }
    };
}

macro_rules! bit_scan {
    ($name:ident, $insn:literal, $size:literal) => {
        #[inline]
        fn $name(self, old: Self, flags: u64) -> (Self, u64) {
            let mut value = old;
            let ax: u32;
            // SAFETY: register instructions; AX is declared as changed.
            unsafe {
                asm!(
                    "add al, 0x7f", "sahf",
                    concat!($insn, " {value", $size, "}, {source", $size, "}"),
                    "lahf", "seto al",
                    value = inout(reg) value, source = in(reg) self,
                    inout("eax") ax_from_flags(flags) => ax,
                    options(pure, nomem, nostack),
                );
            }
            (value, flags_from_ax(ax))
        }
    };
}

macro_rules! word {
    ($type:ident, $signed:ty, $double:ty, $signed_double:ty, $class:ident, $size:literal) => {
        impl Word for $type {
            const SIZE: usize = size_of::<$type>();
            const BITS: u32 = <$type>::BITS;

            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }

            binary!(add, "add", $class, $size);
            binary!(or, "or", $class, $size);
            binary_carry!(adc, "adc", $class, $size);
            binary_carry!(sbb, "sbb", $class, $size);
            binary!(and, "and", $class, $size);
            binary!(sub, "sub", $class, $size);
            binary!(xor, "xor", $class, $size);
            unary!(inc, "inc", $class, $size, CF);
            unary!(dec, "dec", $class, $size, CF);

            #[inline(always)]
            fn neg(self) -> (Self, u64) {
                (0 as Self).sub(self, 0)
            }

            shift!(rol, "rol", $class, $size, (CF | OF));
            shift!(ror, "ror", $class, $size, (CF | OF));
            shift!(rcl, "rcl", $class, $size, (CF | OF));
            shift!(rcr, "rcr", $class, $size, (CF | OF));
            shift!(shl, "shl", $class, $size, ARITHMETIC);
            shift!(shr, "shr", $class, $size, ARITHMETIC);
            shift!(sar, "sar", $class, $size, ARITHMETIC);

            multiply!($type);

            #[inline]
            fn div(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
                let dividend = (high as $double) << Self::BITS | self as $double;
                let quotient = dividend.checked_div(divisor as $double)?;
                let remainder = dividend % divisor as $double;
                Some((<$type>::try_from(quotient).ok()?, remainder as $type))
            }

            #[inline]
            fn idiv(self, high: Self, divisor: Self) -> Option<(Self, Self)> {
                let dividend =
                    ((high as $double) << Self::BITS | self as $double) as $signed_double;
                let divisor = divisor as $signed as $signed_double;
                let quotient = <$signed>::try_from(dividend.checked_div(divisor)?).ok()?;
                Some((quotient as $type, (dividend % divisor) as $type))
            }
        }
    };
}

/// MUL and IMUL with their fixed registers.
macro_rules! multiply {
    (u8) => {
        multiply!(@byte mul, "mul");
        multiply!(@byte imul, "imul");
    };
    ($type:ident) => {
        multiply!(@wide $type, mul, "mul");
        multiply!(@wide $type, imul, "imul");
    };
    (@byte $name:ident, $insn:literal) => {
        #[inline]
        fn $name(self, other: Self, flags: u64) -> (Self, Self, u64) {
            let product: u16;
            let ax: u32;
            // SAFETY: register instructions; AX is declared as changed.
            unsafe {
                asm!(
                    "add al, 0x7f", "sahf",
                    "mov al, {value}",
                    concat!($insn, " {other}"),
                    "mov {product:x}, ax",
                    "lahf", "seto al",
                    value = in(reg_byte) self, other = in(reg_byte) other,
                    product = out(reg) product,
                    inout("eax") ax_from_flags(flags) => ax,
                    options(pure, nomem, nostack),
                );
            }
            (product as u8, (product >> 8) as u8, flags_from_ax(ax))
        }
    };
    (@wide $type:ident, $name:ident, $insn:literal) => {
        #[inline]
        fn $name(self, other: Self, flags: u64) -> (Self, Self, u64) {
            let (low, high): (u64, u64);
            let ax: u64;
            // SAFETY: register instructions; RAX and RDX are declared as changed.
            unsafe {
                asm!(
                    "add al, 0x7f", "sahf",
                    "mov rax, {low}",
                    multiply!(@text $type, $insn),
                    "mov {low}, rax",
                    "lahf", "seto al",
                    other = in(reg) u64::from(other), low = inout(reg) u64::from(self) => low,
                    inout("rax") u64::from(ax_from_flags(flags)) => ax, out("rdx") high,
                    options(pure, nomem, nostack),
                );
            }
            (low as $type, high as $type, flags_from_ax(ax as u32))
        }
    };
    (@text u16, $insn:literal) => { concat!($insn, " {other:x}") };
    (@text u32, $insn:literal) => { concat!($insn, " {other:e}") };
    (@text u64, $insn:literal) => { concat!($insn, " {other:r}") };
}

macro_rules! wide_word {
    ($type:ty, $size:literal) => {
        impl WideWord for $type {
            #[inline(always)]
            fn imul2(self, other: Self, flags: u64) -> (Self, u64) {
                let mut value = self;
                let ax: u32;
                // SAFETY: register instructions; AX is declared as changed.
                unsafe {
                    asm!(
                        "add al, 0x7f", "sahf",
                        concat!("imul {value", $size, "}, {other", $size, "}"),
                        "lahf", "seto al",
                        value = inout(reg) value, other = in(reg) other,
                        inout("eax") ax_from_flags(flags) => ax,
                        options(pure, nomem, nostack),
                    );
                }
                (value, flags_from_ax(ax))
            }

            double_shift!(shld, "shld", $size);
            double_shift!(shrd, "shrd", $size);

            #[inline]
            fn bt(self, offset: u64, flags: u64) -> u64 {
                let bit = (self >> (offset as u32 & (Self::BITS - 1))) & 1;
                flags & ARITHMETIC & !CF | bit as u64
            }

            bit_scan!(bsf, "bsf", $size);
            bit_scan!(bsr, "bsr", $size);
        }
    };
}

word!(u8, i8, u16, i16, reg_byte, "");
word!(u16, i16, u32, i32, reg, ":x");
word!(u32, i32, u64, i64, reg, ":e");
word!(u64, i64, u128, i128, reg, ":r");
wide_word!(u16, ":x");
wide_word!(u32, ":e");
wide_word!(u64, ":r");

#[cfg(test)]
mod tests {
    use super::*;
    const ZF: u64 = 1 << 6;
    const SF: u64 = 1 << 7;
    const AF: u64 = 1 << 4;
    const PF: u64 = 1 << 2;

    #[test]
    fn flags_are_the_processors() {
        assert_eq!(0xffu8.add(1, 0), (0, CF | ZF | AF | PF));
        assert_eq!(0x7fffu16.add(1, 0), (0x8000, OF | SF | AF | PF));
        assert_eq!(0u32.sub(1, 0), (u32::MAX, CF | SF | AF | PF));
        assert_eq!(5u64.adc(6, CF), (12, PF));
        assert_eq!(5u64.sbb(5, CF).0, u64::MAX);
        assert_eq!(0xffu8.inc(CF), (0, CF | ZF | AF | PF));
        assert_eq!(0x80u8.neg(), (0x80, CF | SF | OF));
    }

    #[test]
    fn shifts_by_zero_keep_flags() {
        assert_eq!(7u32.shl(32, CF | ZF), (7, CF | ZF));
        assert_eq!(7u64.sar(64, OF), (7, OF));
        assert_eq!(0x8000_0001u32.rol(1, ZF).0, 3);
        assert_eq!(0x8000_0001u32.rcl(1, ZF), (2, ZF | CF | OF));
    }

    #[test]
    fn multiplication_and_division() {
        assert_eq!(0xffu8.mul(0xff, 0).0, 0x01);
        assert_eq!(0xffu8.mul(0xff, 0).1, 0xfe);
        assert_eq!(u64::MAX.mul(2, 0), (u64::MAX - 1, 1, u64::MAX.mul(2, 0).2));
        assert_eq!((-3i32 as u32).imul(5, 0).0, -15i32 as u32);
        assert_eq!((-3i32 as u32).imul(5, 0).1, u32::MAX);
        assert_eq!(7u8.div(1, 2), Some((0x83, 1)));
        assert_eq!(7u8.div(2, 2), None);
        assert_eq!(7u64.div(0, 0), None);
        assert_eq!((i64::MIN as u64).idiv(u64::MAX, u64::MAX), None);
        assert_eq!((-7i64 as u64).idiv(u64::MAX, 2), Some((-3i64 as u64, -1i64 as u64)));
    }
}
