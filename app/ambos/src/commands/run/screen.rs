//! The guest's screen: what it shows at first, and pictures of it in a file.

use super::machine::Handle;
use crate::failure::Failure;
use ambos_machine::{Screen, VideoMode};
use signal_hook::consts::SIGUSR1;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// What the display adapter shows when the guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vga(pub(super) VideoMode);

impl FromStr for Vga {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// Bytes of the adapter's memory.
        const MEMORY: u32 = 16 << 20;
        if text == "text" {
            return Ok(Self(VideoMode::Text));
        }
        let number = |text: &str| text.parse::<u16>().ok().filter(|number| *number > 0);
        let sides = text.split_once('x');
        let sides = sides.and_then(|(width, height)| Some((number(width)?, number(height)?)));
        let (width, height) =
            sides.ok_or("it is neither \"text\" nor a size in dots, such as 1024x768")?;
        if !width.is_multiple_of(8) || width > 4096 {
            return Err("the width must be a multiple of 8, up to 4096".to_owned());
        }
        if height > 4096 || u32::from(width) * u32::from(height) * 4 > MEMORY {
            return Err("the adapter's 16 MiB of memory cannot hold such a screen".to_owned());
        }
        Ok(Self(VideoMode::Linear { width, height }))
    }
}

/// A file that holds the last picture of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScreenFile(PathBuf);

impl FromStr for ScreenFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("png" | "txt") => Ok(Self(path)),
            _ => {
                Err("its name must end in .png for a picture, or in .txt for characters".to_owned())
            }
        }
    }
}

impl ScreenFile {
    /// Checks that the file can be written, before the guest's work is lost to a misspelt name.
    pub(super) fn create(&self) -> Result<(), Failure> {
        File::create(&self.0).map(drop).map_err(|error| self.failure(error))
    }

    /// Writes what the screen shows.
    pub(super) fn write(&self, screen: &Screen) -> Result<(), Failure> {
        let bytes = if self.0.extension().is_some_and(|extension| extension == "txt") {
            characters(screen).into_bytes()
        } else {
            picture(screen).map_err(|error| self.failure(error))?
        };
        // Whoever looks at the file meanwhile finds the old picture or the new one.
        let folder = self.0.parent().unwrap_or(Path::new(""));
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let new = folder.join(format!(".{name}.{}", std::process::id()));
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &self.0))
            .inspect_err(|_| drop(std::fs::remove_file(&new)))
            .map_err(|error| self.failure(error))
    }

    /// Writes what the screen of a running guest shows; a failure is only told.
    pub(super) fn write_now(&self, handle: &dyn Handle) {
        let Some(screen) = handle.screen() else { return };
        if let Err(failure) = self.write(&screen) {
            tracing::warn!("{}", failure.line());
        }
    }

    /// Writes what the screen shows whenever the monitor gets SIGUSR1.
    pub(super) fn write_on_signal(&self, handle: Arc<dyn Handle>) -> io::Result<()> {
        let file = self.clone();
        let mut signals = signal_hook::iterator::Signals::new([SIGUSR1])?;
        std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            for _ in signals.forever() {
                file.write_now(handle.as_ref());
            }
        })?;
        Ok(())
    }

    fn failure(&self, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::usage_because(format!("cannot write {}", self.0.display()), error)
    }
}

/// A picture in PNG format.
fn picture(screen: &Screen) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut encoder =
        png::Encoder::new(BufWriter::new(&mut bytes), side(screen.width), side(screen.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&screen.rgb)?;
    writer.finish()?;
    Ok(bytes)
}

/// The characters, without spaces at the ends of lines.
fn characters(screen: &Screen) -> String {
    let Some(text) = &screen.text else {
        return format!("({} × {} dots, no characters)\n", screen.width, screen.height);
    };
    text.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_named_by_their_size() {
        assert_eq!("text".parse(), Ok(Vga(VideoMode::Text)));
        let linear = |width, height| Ok(Vga(VideoMode::Linear { width, height }));
        assert_eq!("1024x768".parse(), linear(1024, 768));
        assert_eq!("2048x2048".parse(), linear(2048, 2048));
        for bad in ["", "x", "1024", "1024x", "0x0", "1001x10", "-8x8", "4096x4096", "8x70000"] {
            assert!(bad.parse::<Vga>().is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_pictures_or_text() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| -> ScreenFile {
            folder.path().join(name).to_str().unwrap().parse().unwrap()
        };
        let text = Some(vec!["ab  ".to_owned(), "  ".to_owned()]);
        let screen = Screen { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6], text };
        file("a.txt").write(&screen).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("a.txt")).unwrap(), "ab\n\n");
        file("a.png").write(&screen).unwrap();
        let bytes = io::BufReader::new(File::open(folder.path().join("a.png")).unwrap());
        let mut reader = png::Decoder::new(bytes).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        assert_eq!((info.width, info.height, rgb), (2, 1, screen.rgb.clone()));
        assert!("a.jpg".parse::<ScreenFile>().is_err());
        let nowhere: ScreenFile = "/nonexistent/a.png".parse().unwrap();
        assert_eq!(nowhere.create().unwrap_err().status(), 2);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
