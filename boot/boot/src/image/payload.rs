//! Unpacking the compressed kernel inside a bzImage.
//!
//! Linux's build appends the unpacked size as four bytes to every format but gzip, so each decoder
//! must stop at the end of its stream and leave the rest alone. Output is bounded by
//! [`MAX_UNPACKED`], memory of the decoders by [`MAX_DECODER_MEMORY`].

use super::bzimage::signature;
use super::{ImageError, lz4};
use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;
use std::fmt;
use std::io::Read;

/// The largest unpacked kernel in bytes.
pub const MAX_UNPACKED: u64 = 512 << 20;
/// The most that a decoder may allocate for its dictionary or window, in bytes.
const MAX_DECODER_MEMORY: u64 = 256 << 20;

/// How a kernel's payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// xz, with or without the x86 filter.
    Xz,
    /// The older LZMA format.
    Lzma,
    /// LZ4's legacy frame.
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
    /// bzip2; not supported.
    Bzip2,
    /// LZO; not supported.
    Lzo,
}

impl Compression {
    /// Recognises a payload by its first bytes.
    pub fn detect(payload: &[u8]) -> Option<Self> {
        const SIGNATURES: [(&[u8], Compression); 9] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\x1f\x9e", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x5d\0\0", Compression::Lzma),
            (&lz4::MAGIC.to_le_bytes(), Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"BZh", Compression::Bzip2),
            (b"\x89LZO", Compression::Lzo),
        ];
        SIGNATURES.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, found)| *found)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        })
    }
}

/// Unpacks `payload`, whatever it is compressed with.
///
/// # Errors
///
/// [`ImageError`] if the format is unknown or unsupported, the data is damaged, or it unpacks to
/// more than [`MAX_UNPACKED`].
pub fn unpack(payload: &[u8]) -> Result<Vec<u8>, ImageError> {
    let compression = Compression::detect(payload)
        .ok_or_else(|| ImageError::UnknownCompression(signature(payload)))?;
    let damaged = |reason: String| ImageError::Unpack { compression, reason };
    let lzma = |stream: Result<Stream, liblzma::stream::Error>| -> Result<Vec<u8>, ImageError> {
        let stream = stream.map_err(|error| damaged(error.to_string()))?;
        read_bounded(XzDecoder::new_stream(payload, stream), compression)
    };
    match compression {
        Compression::None => Ok(payload.to_vec()),
        Compression::Gzip => read_bounded(flate2::bufread::GzDecoder::new(payload), compression),
        Compression::Xz => lzma(Stream::new_stream_decoder(MAX_DECODER_MEMORY, 0)),
        Compression::Lzma => lzma(Stream::new_lzma_decoder(MAX_DECODER_MEMORY)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)
                .map_err(|error| damaged(error.to_string()))?
                .single_frame();
            decoder
                .window_log_max(MAX_DECODER_MEMORY.ilog2())
                .map_err(|error| damaged(error.to_string()))?;
            read_bounded(decoder, compression)
        }
        Compression::Lz4 => lz4::Blocks::parse(payload)?.unpack_all(),
        Compression::Bzip2 | Compression::Lzo => {
            Err(ImageError::UnsupportedCompression(compression))
        }
    }
}

fn read_bounded(decoder: impl Read, compression: Compression) -> Result<Vec<u8>, ImageError> {
    let mut unpacked = Vec::new();
    decoder
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| ImageError::Unpack { compression, reason: error.to_string() })?;
    if unpacked.len() as u64 > MAX_UNPACKED {
        return Err(ImageError::UnpacksTooLarge);
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{pack, sample_text};

    #[test]
    fn every_supported_format_unpacks_and_ignores_the_size_behind() {
        let text = sample_text(300_000);
        for compression in crate::testing::PACKABLE {
            let mut payload = pack(compression, &text);
            assert_eq!(Compression::detect(&payload), Some(compression));
            if compression != Compression::None {
                payload.extend((text.len() as u32).to_le_bytes());
                assert!(unpack(&payload).unwrap() == text, "{compression}");
            }
        }
    }

    #[test]
    fn cut_off_payloads_are_damaged() {
        let text = sample_text(100_000);
        for compression in crate::testing::PACKABLE {
            if compression == Compression::None {
                continue;
            }
            let payload = pack(compression, &text);
            for length in [payload.len() / 2, payload.len() - 5, 7] {
                let result = unpack(&payload[..length]);
                assert!(
                    matches!(result, Err(ImageError::Unpack { .. })),
                    "{compression} at {length}: {:?}",
                    result.map(|bytes| bytes.len())
                );
            }
        }
    }

    #[test]
    fn unsupported_formats_are_named() {
        let error = unpack(b"BZh91AY&SY").unwrap_err().to_string();
        assert!(error.contains("bzip2") && error.contains("vmlinux"), "{error}");
        let error = unpack(b"\x89LZO\0\r\n").unwrap_err().to_string();
        assert!(error.contains("lzo"), "{error}");
        assert!(matches!(unpack(b"what"), Err(ImageError::UnknownCompression(_))));
        assert!(matches!(unpack(b""), Err(ImageError::UnknownCompression(_))));
    }
}
