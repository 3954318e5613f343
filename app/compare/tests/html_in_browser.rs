//! The HTML report in headless Chromium: it sorts, fits a phone, has both themes, and asks the network
//! for nothing.
//!
//! Where there is no Chromium the tests have nothing to look at; `AMBOS_TEST_BROWSER=1` makes that a
//! failure.

use ambos_compare::report::{Report, html};
use std::path::Path;
use std::process::Command;

/// Names that the browser goes by.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// A report as `ambos compare --json` wrote it.
const SAMPLE: &str = include_str!("sample.json");

fn browser() -> Option<&'static str> {
    let found = BROWSERS.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    assert!(
        found.is_some() || std::env::var_os("AMBOS_TEST_BROWSER").is_none(),
        "none of {BROWSERS:?} is installed"
    );
    found
}

/// The page after `script` has run in it at this width of window; `None` without a browser.
fn page_after(script: &str, width: u32, dark: bool) -> Option<String> {
    let browser = browser()?;
    let report = Report::from_json(SAMPLE).unwrap();
    let page = html::render(&report).replace(
        "</body>",
        &format!("<script>addEventListener('load', () => {{ {script} }});</script></body>"),
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("report.html");
    std::fs::write(&file, page).unwrap();
    Some(dump(browser, directory.path(), &file, width, dark))
}

fn dump(browser: &str, profile: &Path, file: &Path, width: u32, dark: bool) -> String {
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--dump-dom",
    ]);
    command.arg(format!("--user-data-dir={}", profile.join("profile").display()));
    command.arg(format!("--window-size={width},900"));
    if dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    }
    // Long enough for frames to load.
    command.arg("--virtual-time-budget=10000");
    // With every name unknown, whatever the page asked the network for would fail.
    command.arg("--host-resolver-rules=MAP * ~NOTFOUND");
    let output = command.arg(format!("file://{}", file.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What the script left in the title.
fn title(page: &str) -> &str {
    page.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0
}

#[test]
fn a_click_sorts_and_another_turns_round() {
    let script = "
        const names = () => [...document.querySelectorAll('#results tbody tr td:first-child strong')]
            .map((one) => one.textContent);
        const button = document.querySelector('#results th button');
        button.click();
        const up = names();
        button.click();
        const down = names();
        const sorted = [...up].sort((a, b) => a.localeCompare(b));
        const number = document.querySelectorAll('#results th button')[2];
        number.click();
        const keys = [...document.querySelectorAll('#results tbody tr')]
            .map((row) => row.children[2].dataset.key).filter((key) => key !== '').map(Number);
        const rising = keys.every((key, place) => place === 0 || keys[place - 1] <= key);
        document.title = [up.join() === sorted.join(), down.join() === sorted.reverse().join(),
            up.length > 1, rising, number.parentElement.getAttribute('aria-sort')].join();";
    let Some(page) = page_after(script, 1100, false) else { return };
    assert_eq!(title(&page), "true,true,true,true,ascending");
}

#[test]
fn it_fits_a_phone() {
    // Headless windows have a least width of their own, so the page is looked at in a frame.
    let script = "
        const frame = document.createElement('iframe');
        frame.style.width = '360px';
        frame.srcdoc = '<!DOCTYPE html>' + document.documentElement.outerHTML.replace(/<script>.*?<\\/script>/gs, '');
        frame.onload = () => {
            const root = frame.contentDocument.documentElement;
            const cell = frame.contentDocument.querySelector('#results td');
            document.title = [root.scrollWidth <= 360, frame.contentWindow.getComputedStyle(cell).display].join();
        };
        document.body.append(frame);";
    let Some(page) = page_after(script, 1100, false) else { return };
    assert_eq!(title(&page), "true,block");
}

#[test]
fn it_is_dark_or_light() {
    let script = "
        const back = () => getComputedStyle(document.body).backgroundColor;
        const first = back();
        document.getElementById('theme').click();
        const second = back();
        document.getElementById('theme').click();
        document.title = [first === second, first === back(), first].join(';');";
    let Some(light) = page_after(script, 1100, false) else { return };
    let Some(dark) = page_after(script, 1100, true) else { return };
    assert_eq!(title(&light), "false;true;rgb(247, 247, 245)");
    assert_eq!(title(&dark), "false;true;rgb(21, 24, 28)");
}

#[test]
fn nothing_is_asked_of_the_network() {
    let script = "document.title = performance.getEntriesByType('resource').length;";
    let Some(page) = page_after(script, 1100, false) else { return };
    assert_eq!(title(&page), "0");
}
