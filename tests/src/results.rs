//! What the security suites report, and the table of it in `docs/threat-model.md`.
//!
//! A run writes `target/security/<suite>-<isolation>-<strategy>.json`; `cargo run -p tests --example
//! security_results` makes the table of all such files; a test of each suite fails if the table in the
//! document does not show its rows, each held with every isolation and strategy it is to be tried in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::isolation::{InGvisor, Isolation};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/threat-model.md");
/// Pool strategies that the suites run with.
const STRATEGIES: [&str; 2] = ["fast", "secure"];

/// One row of a suite, as far as its table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// What kind of attack it is.
    pub group: &'static str,
    /// What is tried; unique within its suite.
    pub name: &'static str,
    /// What must come of it.
    pub expected: &'static str,
    /// What must come of it in gVisor.
    pub in_gvisor: InGvisor<&'static str>,
}

impl Row {
    fn is_tried_in(&self, isolation: Isolation) -> bool {
        self.in_gvisor.outcome(isolation, self.expected).is_some()
    }

    /// What is shown of it in gVisor.
    fn shown_in_gvisor(&self) -> String {
        match self.in_gvisor {
            InGvisor::Same => String::new(),
            InGvisor::Differs(outcome, why) => format!("{outcome}: {why}"),
            InGvisor::Untried(why) => format!("not tried: {why}"),
        }
    }
}

/// One run of a suite, or of a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The suite.
    pub suite: &'static str,
    /// Which part of it, counted from nought.
    pub part: usize,
    /// What kept its sandboxes apart from the machine.
    pub isolation: Isolation,
    /// How its sandboxes were kept, as the configuration calls it.
    pub strategy: &'static str,
}

impl Run {
    /// Writes down which rows held.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, rows: &[(Row, bool)]) {
        let rows: Vec<Value> = rows
            .iter()
            .map(|(row, held)| {
                json!({
                    "group": row.group, "name": row.name, "expected": row.expected,
                    "inGvisor": row.shown_in_gvisor(), "held": held,
                })
            })
            .collect();
        let Self { suite, part, isolation, strategy } = *self;
        let run = json!({
            "suite": suite, "isolation": isolation.name(), "poolStrategy": strategy, "rows": rows,
        });
        let directory = directory();
        fs::create_dir_all(&directory).expect("the target directory is writable");
        let name = format!("{suite}-{}-{strategy}-{part}.json", isolation.name());
        fs::write(directory.join(name), format!("{run:#}\n"))
            .expect("the target directory is writable");
    }
}

/// Makes the tables of all runs there are, one for each suite.
///
/// # Panics
/// If a run is missing or cannot be read, or a row did not hold: such a table is not to be published.
#[must_use]
pub fn tables() -> String {
    let entries = fs::read_dir(directory()).expect("the suites have run and written their results");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    // Suite by suite: the runs of its parts, in order, by what they ran with.
    let mut suites: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("results can be read");
        let run: Value = serde_json::from_str(&text).expect("results are JSON");
        let with = with(text_of(&run["isolation"]), text_of(&run["poolStrategy"]));
        let runs = suites.entry(text_of(&run["suite"]).to_owned()).or_default();
        runs.entry(with).or_default().extend(run["rows"].as_array().into_iter().flatten().cloned());
    }
    let mut text = String::new();
    for (suite, runs) in &suites {
        table(&mut text, suite, runs);
    }
    text
}

fn table(text: &mut String, suite: &str, runs: &BTreeMap<String, Vec<Value>>) {
    let usual = with(Isolation::Runtime.name(), STRATEGIES[0]);
    let rows = runs.get(&usual).unwrap_or_else(|| panic!("{suite} has not run with {usual}"));
    write!(text, "\n### {suite}: {} rows\n\n", rows.len()).expect("text takes text");
    text.push_str(HEADING);
    for row in rows {
        let held: Vec<String> =
            everything().filter(|(_, with)| has_held(runs, with, row)).map(|(_, it)| it).collect();
        let fields = ["group", "name", "expected", "inGvisor"].map(|field| text_of(&row[field]));
        writeln!(text, "{}{} |", line(fields), held.join(", ")).expect("text takes text");
    }
}

/// Whether a row was tried in a run; then it must have held.
fn has_held(runs: &BTreeMap<String, Vec<Value>>, with: &str, row: &Value) -> bool {
    let name = &row["name"];
    let found = runs.get(with).and_then(|rows| rows.iter().find(|row| row["name"] == *name));
    assert!(found.is_none_or(|row| row["held"] == true), "{name} did not hold with {with}");
    found.is_some()
}

/// Everything that the suites run with, in words.
fn everything() -> impl Iterator<Item = (Isolation, String)> {
    let each = |isolation: Isolation| {
        STRATEGIES.map(|strategy| (isolation, with(isolation.name(), strategy)))
    };
    Isolation::ALL.into_iter().flat_map(each)
}

fn with(isolation: &str, strategy: &str) -> String {
    format!("{isolation} `{strategy}`")
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

const HEADING: &str = "\
| group | what is tried | what comes of it | in gVisor, where it is something else | held with |
| --- | --- | --- | --- | --- |
";

/// Beginning of a row's line.
fn line([group, name, expected, in_gvisor]: [&str; 4]) -> String {
    format!("| {group} | {name} | {expected} | {in_gvisor} | ")
}

/// Puts the tables in the place of everything below `## Results` in the document.
///
/// # Panics
/// If the document has no such heading, or cannot be written.
pub fn publish(tables: &str) {
    let text = fs::read_to_string(DOCUMENT).expect("the document can be read");
    let (before, _) = text.split_once(BEGIN).expect("the document has a place for the results");
    fs::write(DOCUMENT, format!("{before}{BEGIN}\n{tables}")).expect("the document can be written");
}

const BEGIN: &str = "<!-- generated: cargo run -p tests --example security_results -->";

/// What is wrong with the document's table of a suite.
///
/// # Errors
/// Rows that are missing, or not of this suite any more.
///
/// # Panics
/// If there is no document.
pub fn check_document(suite: &str, rows: &[Row]) -> Result<(), String> {
    let text = fs::read_to_string(DOCUMENT).expect("the document can be read");
    let heading = format!("\n### {suite}: {} rows\n", rows.len());
    let (_, section) =
        text.split_once(&heading).ok_or_else(|| format!("no heading \"{}\"", heading.trim()))?;
    let section = section.split("\n### ").next().unwrap_or_default();
    let lines: Vec<&str> = section.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    let (count, known) = (lines.len(), rows.len());
    if count != known {
        return Err(format!("{count} lines for {known} rows"));
    }
    rows.iter().zip(&lines).try_for_each(|(row, shown)| check_line(row, shown))
}

/// What is wrong with the line of a row: it must show the row, and that it held wherever it is to be tried.
fn check_line(row: &Row, shown: &str) -> Result<(), String> {
    let in_gvisor = row.shown_in_gvisor();
    let held: Vec<String> = everything()
        .filter(|(isolation, _)| row.is_tried_in(*isolation))
        .map(|(_, with)| with)
        .collect();
    let begin = line([row.group, row.name, row.expected, &in_gvisor]);
    let expected = format!("{begin}{} |", held.join(", "));
    if shown == expected {
        return Ok(());
    }
    Err(format!("it shows\n  {shown}\nwhere the suite has\n  {expected}"))
}

/// `target/security`, next to the profile in which this program was built.
fn directory() -> PathBuf {
    // target/<profile>/{deps,examples}/<name>
    let program = std::env::current_exe().expect("a running program has a path");
    let target = program.ancestors().nth(3).map(Path::to_owned);
    target.expect("programs of the workspace lie three levels deep").join("security")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_all_of_its_row_and_that_it_held_wherever_it_is_tried() {
        let same = Row { group: "g", name: "n", expected: "e", in_gvisor: InGvisor::Same };
        let other = Row { in_gvisor: InGvisor::Differs("o", "w"), ..same };
        let untried = Row { in_gvisor: InGvisor::Untried("w"), ..same };
        let (runtime, gvisor) =
            ("runtime `fast`, runtime `secure`", "gvisor `fast`, gvisor `secure`");
        let all = format!("{runtime}, {gvisor}");
        for (row, shown) in [
            (same, format!("| g | n | e |  | {all} |")),
            (other, format!("| g | n | e | o: w | {all} |")),
            (untried, format!("| g | n | e | not tried: w | {runtime} |")),
        ] {
            assert_eq!(check_line(&row, &shown), Ok(()));
            for other in [same, other, untried].into_iter().filter(|other| *other != row) {
                assert!(check_line(&other, &shown).is_err(), "{shown}");
            }
        }
        for shown in [
            "| g | n | e |  |  |".to_owned(),
            format!("| g | n | e |  | {runtime} |"),
            format!("| g | n | e |  | {gvisor} |"),
            format!("| g | n | e |  | {all}"),
            format!("| g | n | f |  | {all} |"),
            format!("| g | m | e |  | {all} |"),
        ] {
            assert!(check_line(&same, &shown).is_err(), "{shown}");
        }
    }
}
