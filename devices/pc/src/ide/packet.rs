//! Packet commands of a CD-ROM drive: which there are, and the answers that need no medium access
//! (SFF-8020i; MMC-3, T10/1363-D; SPC-3, T10/1416-D).

/// Bytes of a packet.
pub(super) const LENGTH: usize = 12;
/// Bytes of a block.
pub(super) const BLOCK: u64 = 2048;

/// Operation codes.
mod operation {
    pub(super) const TEST_UNIT_READY: u8 = 0x00;
    pub(super) const REQUEST_SENSE: u8 = 0x03;
    pub(super) const INQUIRY: u8 = 0x12;
    pub(super) const START_STOP_UNIT: u8 = 0x1b;
    pub(super) const PREVENT_REMOVAL: u8 = 0x1e;
    pub(super) const READ_CAPACITY: u8 = 0x25;
    pub(super) const READ_10: u8 = 0x28;
    pub(super) const SEEK_10: u8 = 0x2b;
    pub(super) const READ_TOC: u8 = 0x43;
    pub(super) const GET_CONFIGURATION: u8 = 0x46;
    pub(super) const GET_EVENT_STATUS: u8 = 0x4a;
    pub(super) const MODE_SENSE_10: u8 = 0x5a;
    pub(super) const READ_12: u8 = 0xa8;
    pub(super) const SET_SPEED: u8 = 0xbb;
}

/// Profile: CD-ROM.
const PROFILE_CD: u16 = 0x08;
/// Profile: DVD-ROM.
const PROFILE_DVD: u16 = 0x10;
/// Blocks of the largest CD.
const CD_BLOCKS: u64 = 450_000;
/// Mode page: capabilities and mechanical status.
const CAPABILITIES: u8 = 0x2a;
/// Mode page: all pages.
const ALL_PAGES: u8 = 0x3f;
/// Track number of the lead-out.
const LEAD_OUT: u8 = 0xaa;

/// Why a packet command failed: sense key and additional code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sense {
    pub(super) key: u8,
    pub(super) code: u8,
}

impl Sense {
    pub(super) const NONE: Self = Self { key: 0, code: 0 };
    pub(super) const READ_ERROR: Self = Self { key: 3, code: 0x11 };
    pub(super) const UNKNOWN_OPERATION: Self = Self { key: 5, code: 0x20 };
    pub(super) const BLOCK_OUT_OF_RANGE: Self = Self { key: 5, code: 0x21 };
    pub(super) const INVALID_FIELD: Self = Self { key: 5, code: 0x24 };
}

/// What a packet asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Nothing but to know that it worked.
    Nothing,
    /// An answer, cut to what the guest has room for.
    Answer(Vec<u8>),
    /// Blocks of the medium.
    Read {
        /// The first one.
        first: u64,
        /// How many.
        count: u64,
    },
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Understands a packet, for a medium of `blocks` blocks; `last` is what went wrong before.
pub(super) fn request(packet: &[u8; LENGTH], blocks: u64, last: Sense) -> Result<Request, Sense> {
    let answer = |mut bytes: Vec<u8>, room: u64| {
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        Ok(Request::Answer(bytes))
    };
    match packet[0] {
        operation::TEST_UNIT_READY
        | operation::START_STOP_UNIT
        | operation::PREVENT_REMOVAL
        | operation::SET_SPEED => Ok(Request::Nothing),
        operation::SEEK_10 => match number(&packet[2..6]) {
            block if block < blocks => Ok(Request::Nothing),
            _ => Err(Sense::BLOCK_OUT_OF_RANGE),
        },
        operation::REQUEST_SENSE => answer(sense(last), packet[4].into()),
        operation::INQUIRY if packet[1] & 1 != 0 => Err(Sense::INVALID_FIELD),
        operation::INQUIRY => answer(inquiry(), number(&packet[3..5])),
        operation::READ_CAPACITY => {
            let last = blocks.saturating_sub(1).min(u64::from(u32::MAX)) as u32;
            let bytes = [last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat();
            answer(bytes, 8)
        }
        operation::READ_10 | operation::READ_12 => {
            let count = if packet[0] == operation::READ_10 {
                number(&packet[7..9])
            } else {
                number(&packet[6..10])
            };
            let first = number(&packet[2..6]);
            if first + count > blocks {
                return Err(Sense::BLOCK_OUT_OF_RANGE);
            }
            Ok(Request::Read { first, count })
        }
        operation::READ_TOC => {
            // SFF-8020i has the format in the last byte.
            let format = if packet[2] & 0xf != 0 { packet[2] & 0xf } else { packet[9] >> 6 };
            let time = packet[1] & 2 != 0;
            let bytes = match format {
                0 => contents(packet[6], time, blocks).ok_or(Sense::INVALID_FIELD)?,
                // One session, which begins with track 1.
                1 => vec![0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0],
                _ => return Err(Sense::INVALID_FIELD),
            };
            answer(bytes, number(&packet[7..9]))
        }
        operation::GET_CONFIGURATION => answer(configuration(blocks), number(&packet[7..9])),
        // Only polling, and nothing ever happens.
        operation::GET_EVENT_STATUS if packet[1] & 1 == 0 => Err(Sense::INVALID_FIELD),
        operation::GET_EVENT_STATUS => {
            let media = packet[4] & 1 << 4 != 0;
            let bytes =
                if media { vec![0, 6, 4, 1 << 4, 0, 2, 0, 0] } else { vec![0, 2, 0x80, 1 << 4] };
            answer(bytes, number(&packet[7..9]))
        }
        operation::MODE_SENSE_10 => match packet[2] & 0x3f {
            CAPABILITIES | ALL_PAGES => answer(capabilities(), number(&packet[7..9])),
            _ => Err(Sense::INVALID_FIELD),
        },
        _ => Err(Sense::UNKNOWN_OPERATION),
    }
}

fn sense(sense: Sense) -> Vec<u8> {
    let mut bytes = vec![0; 18];
    (bytes[0], bytes[2], bytes[7], bytes[12]) = (0x70, sense.key, 10, sense.code);
    bytes
}

fn inquiry() -> Vec<u8> {
    // A CD-ROM, removable, of MMC.
    let mut bytes = vec![5, 0x80, 0, 0x21, 31, 0, 0, 0];
    bytes.extend_from_slice(b"AMBOS   CD-ROM          1   ");
    bytes
}

/// A block's address, as a number or as minute, second and frame.
fn address(block: u64, time: bool) -> [u8; 4] {
    if !time {
        return (block.min(u64::from(u32::MAX)) as u32).to_be_bytes();
    }
    let frames = block + 150;
    [0, (frames / 75 / 60).min(255) as u8, (frames / 75 % 60) as u8, (frames % 75) as u8]
}

/// The table of contents from a track on: one track of data, and the lead-out.
fn contents(from: u8, time: bool, blocks: u64) -> Option<Vec<u8>> {
    if from > 1 && from != LEAD_OUT {
        return None;
    }
    let mut bytes = vec![0, 0, 1, 1];
    for (track, block) in [(1, 0), (LEAD_OUT, blocks)] {
        if track >= from {
            bytes.extend([0, 0x14, track, 0]);
            bytes.extend(address(block, time));
        }
    }
    bytes[1] = bytes.len() as u8 - 2;
    Some(bytes)
}

fn configuration(blocks: u64) -> Vec<u8> {
    let current = if blocks > CD_BLOCKS { PROFILE_DVD } else { PROFILE_CD };
    let mut bytes = vec![0; 4];
    bytes.extend([0, 0]);
    bytes.extend(current.to_be_bytes());
    // Feature 0: the list of profiles.
    bytes.extend([0, 0, 3, 8]);
    for profile in [PROFILE_DVD, PROFILE_CD] {
        bytes.extend(profile.to_be_bytes());
        bytes.extend([u8::from(profile == current), 0]);
    }
    bytes[3] = bytes.len() as u8 - 4;
    bytes
}

fn capabilities() -> Vec<u8> {
    // Header: length, a medium with data.
    let mut bytes = vec![0, 26, 1, 0, 0, 0, 0, 0];
    // Reads CD-R, CD-RW and DVD-ROM; multi-session; a tray that locks and ejects; 4x.
    bytes.extend([CAPABILITIES, 18, 0x0b, 0, 0x60, 0, 0x29, 0]);
    bytes.extend([0x02, 0xc2, 0, 2, 2, 0, 0x02, 0xc2, 0, 0, 0, 0]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(packet: &[u8]) -> Result<Request, Sense> {
        let mut whole = [0; LENGTH];
        whole[..packet.len()].copy_from_slice(packet);
        request(&whole, 1000, Sense::READ_ERROR)
    }

    #[test]
    fn reads_stay_on_the_medium() {
        let read = |first, count| Ok(Request::Read { first, count });
        assert_eq!(ask(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 1]), read(999, 1));
        assert_eq!(ask(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 3, 0xe8]), read(0, 1000));
        let outside = Err(Sense::BLOCK_OUT_OF_RANGE);
        assert_eq!(ask(&[0x28, 0, 0, 0, 3, 0xe7, 0, 0, 2]), outside);
        assert_eq!(ask(&[0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), outside);
    }

    #[test]
    fn answers_are_cut_to_the_room_there_is() {
        let Ok(Request::Answer(sense)) = ask(&[3, 0, 0, 0, 13]) else { panic!() };
        assert_eq!((sense.len(), sense[2], sense[12]), (13, 3, 0x11));
        assert_eq!(ask(&[0x25]), Ok(Request::Answer(vec![0, 0, 3, 0xe7, 0, 0, 8, 0])));
        let Ok(Request::Answer(toc)) = ask(&[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 99]) else { panic!() };
        assert_eq!(toc, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 15, 25]);
        assert_eq!(ask(&[0xff]), Err(Sense::UNKNOWN_OPERATION));
    }

    #[test]
    fn any_packet_is_understood_or_refused() {
        for operation in 0..=255 {
            for fill in [0, 1, 0x2a, 0x7f, 0xff] {
                let mut packet = [fill; LENGTH];
                packet[0] = operation;
                let _ = request(&packet, 1000, Sense::NONE);
            }
        }
    }
}
