use super::*;
use crate::report::testing;

#[test]
fn the_page_needs_nothing_else() {
    let page = render(&testing::report());
    for forbidden in ["http:", "https:", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for wanted in ["<svg", "prefers-color-scheme", "@media print", "max-width: 640px", "aria-sort"]
    {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn nothing_of_a_guest_is_markup() {
    let mut report = testing::report();
    let evil = "<script>alert(1)</script>\"'&".to_owned();
    report.columns[0].name.clone_from(&evil);
    report.columns[0].failure = Some(evil.clone());
    report.rows[0].name.clone_from(&evil);
    report.rows[0].because = vec![evil.clone()];
    report.guest.name.clone_from(&evil);
    report.verdict = vec![evil];
    let page = render(&report);
    assert_eq!(page.matches("<script>").count(), 1);
    assert!(!page.contains("alert(1)</script>\"") && page.contains("&lt;script&gt;"));
}

/// Every element that is opened is closed, in order.
#[test]
fn elements_are_nested() {
    let page = render(&testing::report());
    let empty = ["!DOCTYPE", "meta"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.as_str();
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').unwrap();
        let tag = &rest[..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') && !empty.contains(&name) {
            open.push(name);
            if name == "style" || name == "script" {
                rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
                continue;
            }
        }
        rest = &rest[end..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn an_empty_report_is_a_page_too() {
    let mut report = testing::report();
    report.rows.clear();
    report.columns.clear();
    report.findings.clear();
    report.verdict.clear();
    assert!(render(&report).contains("Method"));
}
