//! What the kernel maps into each program besides: functions that spare it system calls, as a shared object (vdso(7)).

use crate::sys;

/// Most symbols that are looked at.
const SYMBOLS: usize = 64;
/// Most entries of the tables that lead to them.
const ENTRIES: usize = 64;

/// Fields of the ELF header, and the bytes of an entry of each table (System V ABI, 4 and 5; ELF-64 object file format).
const PROGRAM_HEADERS: usize = 0x20;
const PROGRAM_HEADER_COUNT: usize = 0x38;
const PROGRAM_HEADER: usize = 0x38;
const DYNAMIC_ENTRY: usize = 0x10;
const SYMBOL: usize = 0x18;

/// Kinds of program headers and of dynamic entries.
const LOAD: usize = 1;
const DYNAMIC: usize = 2;
const STRING_TABLE: usize = 5;
const SYMBOL_TABLE: usize = 6;

/// The address of the function `name` in the object mapped at `object`, if it has that.
pub(crate) fn function(object: usize, name: &str) -> Option<usize> {
    let headers = object + sys::load(object + PROGRAM_HEADERS);
    let count = (sys::load(object + PROGRAM_HEADER_COUNT) & 0xffff).min(ENTRIES);
    // What kind of header, where its part begins in the file, and where in memory.
    let header = |index: usize| {
        let at = headers + index * PROGRAM_HEADER;
        (sys::load(at) & 0xffff_ffff, sys::load(at + 8), sys::load(at + 16))
    };
    let (_, file, linear) = (0..count).map(header).find(|&(kind, ..)| kind == LOAD)?;
    // From addresses in the object to those where it is.
    let bias = object.wrapping_add(file).wrapping_sub(linear);
    let (_, _, dynamic) = (0..count).map(header).find(|&(kind, ..)| kind == DYNAMIC)?;
    let entry = |wanted: usize| {
        let entries = (0..ENTRIES).map(|index| {
            let at = bias.wrapping_add(dynamic) + index * DYNAMIC_ENTRY;
            (sys::load(at), sys::load(at + 8))
        });
        let mut entries = entries.take_while(|&(tag, _)| tag != 0);
        entries.find(|&(tag, _)| tag == wanted).map(|(_, value)| bias.wrapping_add(value))
    };
    let (strings, symbols) = (entry(STRING_TABLE)?, entry(SYMBOL_TABLE)?);
    // Linkers put the strings right behind the symbols.
    let count = (strings.checked_sub(symbols)? / SYMBOL).min(SYMBOLS);
    let symbol = (0..count).map(|index| symbols + index * SYMBOL).find(|&symbol| {
        let text = strings + (sys::load(symbol) & 0xffff_ffff);
        let ends = sys::load_byte(text + name.len()) == 0;
        ends && name.bytes().enumerate().all(|(at, byte)| sys::load_byte(text + at) == byte)
    })?;
    match sys::load(symbol + 8) {
        0 => None,
        value => Some(bias.wrapping_add(value)),
    }
}
