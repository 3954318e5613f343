//! A report for a browser: one file that needs nothing else.
//!
//! Style, script and charts are in the file. It follows the reader's dark or light setting, fits a
//! phone, and prints. Whatever came from a guest or a file is escaped ([`Escaped`]).

mod charts;
mod sections;

use super::Report;
use std::fmt::{self, Write};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The report as one HTML file.
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(page: &mut String, report: &Report) -> fmt::Result {
    let title = sections::title(report);
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"ambos {}\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n",
        Escaped(&report.settings.ambos),
        Escaped(&title)
    )?;
    sections::head(page, report, &title)?;
    sections::list(page, "verdict", "Verdict", report.verdict.iter().map(String::as_str))?;
    sections::columns(page, report)?;
    sections::results(page, report)?;
    charts::gains(page, report)?;
    charts::interceptions(page, report)?;
    sections::because(page, report)?;
    sections::findings(page, report)?;
    sections::counts(page, report)?;
    sections::method(page, report)?;
    write!(page, "<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
}

/// Text of which nothing is taken for markup.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// The colour of a column, by its place.
pub(super) fn colour(place: usize) -> String {
    format!("var(--c{})", place.min(4))
}

#[cfg(test)]
mod tests;
