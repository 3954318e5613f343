//! A report as text for a terminal.

use super::{ConfigSource, Driver, FileKind, OptionState, Report, TechniqueReport};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.file)?;
        table(f, &self.summary())?;
        writeln!(f, "\nBoot protocols")?;
        let protocols = self.protocols.iter().map(|report| {
            let supported = if report.supported { "yes" } else { "no" };
            (report.protocol.to_string(), format!("{supported:3}  {}", report.detail))
        });
        table(f, &protocols.collect::<Vec<_>>())?;
        if !self.xen_notes.is_empty() {
            writeln!(f, "\nXen notes")?;
            let notes = self.xen_notes.iter().map(|note| (note.name.into(), note.value.clone()));
            table(f, &notes.collect::<Vec<_>>())?;
        }
        self.techniques.iter().try_for_each(|technique| technique.fmt(f))
    }
}

impl Report {
    fn summary(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let kind = match self.kind {
            FileKind::BzImage => "Linux bzImage",
            FileKind::Elf64 => "64-bit ELF executable",
            FileKind::Elf32 => "32-bit ELF executable",
            FileKind::Flat => "flat file with a Multiboot header",
        };
        let setup = self.setup_version.as_ref();
        let setup = setup.map_or_else(String::new, |version| format!(", setup version {version}"));
        row("kind", format!("{kind}{setup}, {}", size(self.size)));
        if let Some(version) = &self.version {
            row("version", version.clone());
        }
        if let Some(compression) = self.compression {
            let unpacked = match (self.unpacked_size, &self.unpack_error) {
                (Some(bytes), _) => format!(", {} unpacked", size(bytes)),
                (None, Some(error)) => format!("; {error}"),
                (None, None) => String::new(),
            };
            row("payload", format!("{compression}{unpacked}"));
        } else if let Some(error) = &self.unpack_error {
            row("payload", error.clone());
        }
        if let Some(limit) = self.command_line_max {
            row("command line", format!("at most {limit} bytes"));
        }
        if self.version.is_some() {
            row(
                "configuration",
                match &self.config {
                    Some(ConfigSource::Embedded) => "inside the kernel".into(),
                    Some(ConfigSource::File(path)) => path.display().to_string(),
                    None => "not found".into(),
                },
            );
        }
        rows
    }
}

impl fmt::Display for TechniqueReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nTechnique {}: {}", self.technique, self.verdict)?;
        for reason in &self.reasons {
            writeln!(f, "  ! {reason}")?;
        }
        let width = |text: fn(&Driver) -> &str| {
            self.drivers.iter().map(|driver| text(driver).len()).max().unwrap_or(0)
        };
        let (purposes, options) = (width(|driver| driver.purpose), width(|driver| driver.option));
        for Driver { purpose, option, state } in &self.drivers {
            let state = match state {
                OptionState::BuiltIn => "built in",
                OptionState::Module => "module",
                OptionState::Absent => "absent",
            };
            writeln!(f, "  {purpose:purposes$}  {option:options$}  {state}")?;
        }
        Ok(())
    }
}

/// Two columns, the second one aligned.
fn table(f: &mut fmt::Formatter<'_>, rows: &[(String, String)]) -> fmt::Result {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().try_for_each(|(name, value)| writeln!(f, "  {name:width$}  {value}"))
}

/// A number of bytes in the largest unit that leaves a number above one.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
