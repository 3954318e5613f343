//! The font that is there at power-on, and what its characters mean (code page 437).

use font8x8::{
    BASIC_FONTS, BLOCK_FONTS, BOX_FONTS, GREEK_FONTS, LATIN_FONTS, MISC_FONTS, UnicodeFonts,
};

/// Bytes from one glyph to the next, in plane 2.
pub(super) const STRIDE: usize = 32;
/// Lines of a glyph.
const HEIGHT: usize = 16;

/// Characters 00h to 1Fh.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
/// Characters 7Fh to FFh.
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// What a character of the screen's memory means.
pub(super) fn meaning(character: u8) -> char {
    match character {
        0..0x20 => LOW.chars().nth(character.into()),
        0x20..0x7f => Some(character.into()),
        0x7f.. => HIGH.chars().nth(usize::from(character - 0x7f)),
    }
    .unwrap_or(' ')
}

/// A line of a glyph, its leftmost dot in the highest bit. Glyphs have eight lines, shown twice each.
pub(super) fn line(character: u8, line: usize) -> u8 {
    if line >= HEIGHT {
        return 0;
    }
    let meaning = meaning(character);
    let glyph = BASIC_FONTS
        .get(meaning)
        .or_else(|| LATIN_FONTS.get(meaning))
        .or_else(|| BOX_FONTS.get(meaning))
        .or_else(|| BLOCK_FONTS.get(meaning))
        .or_else(|| GREEK_FONTS.get(meaning))
        .or_else(|| MISC_FONTS.get(meaning));
    glyph.map_or(0, |glyph| glyph[line / 2].reverse_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_have_their_places() {
        assert_eq!((LOW.chars().count(), HIGH.chars().count()), (32, 129));
        let places = [
            (b'A', 'A'),
            (0x1f, '▼'),
            (0x7f, '⌂'),
            (0x80, 'Ç'),
            (0xb0, '░'),
            (0xc4, '─'),
            (0xdb, '█'),
        ];
        for (character, expected) in places.into_iter().chain([(0xe0, 'α'), (0xfe, '■'), (0, ' ')])
        {
            assert_eq!(meaning(character), expected, "{character:#x}");
        }
    }

    #[test]
    fn glyphs_are_drawn_from_the_left() {
        assert!((0..16).all(|index| line(0xdb, index) == 0xff));
        assert!((0..16).all(|index| line(0xdd, index) == 0xf0));
        assert_eq!((line(b' ', 3), line(b'A', 16), line(b'A', 31)), (0, 0, 0));
        assert!((0..16).any(|index| line(b'L', index) & 0x80 != 0));
    }
}
