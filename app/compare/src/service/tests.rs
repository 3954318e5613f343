use super::measure::{HostLoad, take};
use super::*;
use crate::collected::Collected;
use crate::runner::{Outcome, Said};
use std::path::Path;

fn parse(text: &str) -> Result<Service, DefinitionError> {
    Service::parse(text, Path::new("."))
}

const SMALL: &str = "name = \"a\"\n[load]\ncommand = \"true\"\n";

#[test]
fn the_shipped_ones_can_be_read() {
    for (name, text) in SHIPPED {
        let service = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(service.name, *name);
        assert!(!service.about.is_empty() && !service.packages.is_empty());
    }
    assert!(shipped("redis").is_some() && shipped("x").is_none());
}

#[test]
fn mistakes_are_told_in_one_line() {
    let cases = [
        ("", "missing field `name`"),
        ("name = ", "string values"),
        ("name = \"a b\"\n[load]\ncommand = \"x\"", "name: it must be a word"),
        ("name = \"a\"\nport = 3\n[load]\ncommand = \"x\"", "unknown field `port`"),
        ("name = \"a\"\n[load]\ncommand = \" \"", "load.command: it is empty"),
        ("name = \"a\"\n[load]\ncommand = \"x\"\nfrom = \"host\"", "load.port"),
        ("name = \"a\"\n[load]\ncommand = \"x\"\nrepetitions = 0", "load.repetitions"),
        ("name = \"a\"\nmemory = \"lots\"\n[load]\ncommand = \"x\"", "memory: it must be"),
        ("name = \"a\"\npackages = [\"-x\"]\n[load]\ncommand = \"x\"", "no name of a package"),
        ("name = \"a\"\n[load]\ncommand = \"x\"\n[metric]\npattern = '('", "metric.pattern"),
        ("name = \"a\"\n[load]\ncommand = \"x\"\n[metric]\npattern = 'a'", "needs a group"),
        (
            "name = \"a\"\n[[files]]\npath = \"/x\"\n[load]\ncommand = \"x\"",
            "either contents or source",
        ),
        (
            "name = \"a\"\n[[files]]\npath = \"../x\"\ncontents = \"\"\n[load]\ncommand = \"x\"",
            "full path",
        ),
        (
            "name = \"a\"\n[[files]]\npath = \"/x\"\nsource = \"no-such\"\n[load]\ncommand = \"x\"",
            "cannot read",
        ),
    ];
    for (text, expected) in cases {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{text:?}: {message}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}

#[test]
fn scripts_are_valid_shell() {
    let texts = SHIPPED.iter().map(|(_, text)| *text).chain([SMALL]);
    for text in texts {
        let service = parse(text).unwrap();
        for (name, script) in script::files(&service) {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let status =
                std::process::Command::new("sh").arg("-n").arg(file.path()).status().unwrap();
            assert!(status.success(), "{} {name}:\n{script}", service.name);
        }
    }
}

fn cell(service: &Service, said: Vec<Said>, failure: Option<&str>) -> Result<f64, String> {
    let outcome = Outcome { said, failure: failure.map(str::to_owned), ..Outcome::default() };
    let mut collected = Collected::default();
    take(service, &outcome, &HostLoad::default(), &mut collected);
    let cell = collected.cell();
    cell.median.ok_or(cell.failure.unwrap_or_default())
}

fn time(seconds: u64) -> Said {
    Said::Time { nanoseconds: seconds * 1_000_000_000, status: 0 }
}

#[test]
fn the_best_repetition_counts() {
    let seconds = parse(SMALL).unwrap();
    assert_eq!(cell(&seconds, vec![Said::ServiceReady, time(3), time(2)], None), Ok(2.0));
    let text = format!("{SMALL}[metric]\npattern = '([0-9,.]+) per second'\nbetter = \"higher\"\n");
    let rate = parse(&text).unwrap();
    let said = ["1,000.5 per second", "900 per second"]
        .into_iter()
        .flat_map(|line| [Said::Load("noise".into()), Said::Load(line.into()), time(1)]);
    assert_eq!(cell(&rate, said.collect(), None), Ok(1000.5));
    let none = cell(&rate, vec![Said::Load("noise".into()), time(1)], None).unwrap_err();
    assert!(none.contains("pattern is not in the load's output"), "{none}");
}

#[test]
fn failures_have_a_reason() {
    let service = parse(SMALL).unwrap();
    let failed = Said::Failed { name: "a".into(), reason: "it was not ready within 3 s".into() };
    let said = vec![Said::Ready, failed, Said::Log("bind: address in use".into())];
    let expected = Err("it was not ready within 3 s: bind: address in use".to_owned());
    assert_eq!(cell(&service, said, None), expected);
    assert_eq!(cell(&service, vec![time(1)], Some("it crashed")), Err("it crashed".to_owned()));
    assert_eq!(cell(&service, vec![], None), Err("the load gave nothing".to_owned()));
}
