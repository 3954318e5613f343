//! What many records have in common, told by a byte.

use super::lengths::Lengths;
use super::{put_unsigned, take_byte, take_unsigned};

/// How many forms have a number. Guests have some 150.
const MOST: usize = 255;
/// In place of a number: the form follows.
const OTHER: u8 = MOST as u8;

/// Four numbers, whatever they mean.
pub(crate) type Form = [u16; 4];

/// What has a number.
#[derive(Debug, Default)]
pub(crate) struct Forms {
    /// The first forms that there were, in order.
    forms: Vec<Form>,
    pub(super) lengths: Lengths,
}

impl Forms {
    /// Bytes in use.
    pub(crate) fn size(&self) -> usize {
        size_of_val(&self.forms[..]) + self.lengths.size()
    }

    /// Appends a form.
    pub(crate) fn put(&mut self, bytes: &mut Vec<u8>, form: Form) {
        match self.forms.iter().position(|&known| known == form) {
            Some(number) => bytes.push(number as u8),
            None if self.forms.len() < MOST => {
                bytes.push(self.forms.len() as u8);
                self.forms.push(form);
            }
            None => {
                bytes.push(OTHER);
                form.into_iter().for_each(|part| put_unsigned(bytes, part.into()));
            }
        }
    }

    /// Takes what [`Forms::put`] has put.
    #[inline]
    pub(crate) fn take(&self, bytes: &mut &[u8]) -> Option<Form> {
        let number = take_byte(bytes)?;
        if number != OTHER {
            return self.forms.get(usize::from(number)).copied();
        }
        let mut form = [0; 4];
        for part in &mut form {
            *part = take_unsigned(bytes)? as u16;
        }
        Some(form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_come_back_as_they_were() {
        let mut forms = Forms::default();
        let mut bytes = Vec::new();
        let form = |number: u16| [number % 300, 0xffff - number % 300, 0, 1];
        (0..1000).for_each(|number| forms.put(&mut bytes, form(number)));
        let mut rest = &bytes[..];
        assert!((0..1000).all(|number| forms.take(&mut rest) == Some(form(number))));
        assert_eq!(forms.take(&mut rest), None);
        assert_eq!(forms.forms.len(), MOST);
        assert_eq!(Forms::default().take(&mut &[3][..]), None);
    }
}
