//! Instructions that translated code leaves to the interpreter, decoded for it.

use ambos_interpret::op::Op;
use rustc_hash::FxHashMap;
use std::rc::Rc;

/// Most bytes of an instruction.
const LONGEST: usize = 15;

/// An instruction, decoded as if a block began with it: so it is the same wherever it is.
#[derive(Debug, Clone)]
pub(crate) struct Decoded {
    bytes: [u8; LONGEST + 1],
    op: Rc<Op>,
}

impl Decoded {
    /// What the bytes of an instruction mean.
    pub(crate) fn new(code: &[u8], op: Op) -> Self {
        let mut bytes = [0; LONGEST + 1];
        let length = code.len().min(LONGEST);
        bytes[..length].copy_from_slice(&code[..length]);
        bytes[LONGEST] = length as u8;
        Self { bytes, op: Rc::new(op) }
    }
}

/// All of them. There are many places with the same few instructions.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    ops: Vec<Rc<Op>>,
    /// Their numbers, by their bytes and the mode that these were decoded in.
    numbers: FxHashMap<([u8; LONGEST + 1], u32), u32>,
}

impl Ops {
    /// The number of an instruction.
    pub(crate) fn number(&mut self, decoded: Decoded, mode: u32) -> u32 {
        let Decoded { bytes, op } = decoded;
        *self.numbers.entry((bytes, mode)).or_insert_with(|| {
            self.ops.push(op);
            self.ops.len() as u32 - 1
        })
    }

    /// The instruction with a number.
    pub(crate) fn get(&self, number: u32) -> Option<Rc<Op>> {
        self.ops.get(number as usize).cloned()
    }

    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        // An `Rc` counts twice.
        let op = size_of::<Op>() + size_of::<Rc<Op>>() + 2 * size_of::<usize>();
        let number = size_of::<(([u8; LONGEST + 1], u32), u32)>() + 1;
        self.ops.len() * op + self.numbers.capacity() * number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ambos_interpret::Cpu;
    use ambos_interpret::exit::Step;
    use ambos_interpret::op::Extra;
    use ambos_vcpu::Platform;

    fn nothing(_: &mut Cpu, _: &mut dyn Platform, _: &Op) -> Step {
        Ok(())
    }

    fn decoded(code: &[u8]) -> Decoded {
        let op = Op {
            run: nothing,
            imm: 0,
            disp: 0,
            address_mask: 0,
            base: 0,
            index: 0,
            scale: 0,
            seg: 0,
            dst: 0,
            src: 0,
            size: 0,
            checked: false,
            stack: false,
            rep: 0,
            start: 0,
            end: code.len() as u16,
            extra: Extra::None,
        };
        Decoded::new(code, op)
    }

    #[test]
    fn an_instruction_has_one_number_in_each_mode() {
        let mut ops = Ops::default();
        let numbers = [(&[0x0f, 0xa2][..], 1), (&[0x0f, 0xa2, 0], 1), (&[0x0f, 0xa2], 2)];
        for _ in 0..2 {
            for (number, (code, mode)) in numbers.into_iter().enumerate() {
                assert_eq!(ops.number(decoded(code), mode), number as u32);
                assert_eq!(usize::from(ops.get(number as u32).unwrap().end), code.len());
            }
        }
        assert!(ops.get(3).is_none() && ops.size() > 3 * size_of::<Op>());
    }
}
