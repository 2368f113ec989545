//! What the security suites report, and the table of it in `docs/threat-model.md`.
//!
//! A run writes `target/security/<suite>-<isolation>-<strategy>.json`; `cargo run -p tests --example
//! security_results` makes the table of all such files; a test of each suite fails if the table in the
//! document does not show its rows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::isolation::Isolation;

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
}

/// Writes down which rows held in one run of a suite.
///
/// # Panics
/// If it cannot be written.
pub fn write(suite: &str, isolation: Isolation, strategy: &str, rows: &[(Row, bool)]) {
    let rows: Vec<Value> = rows
        .iter()
        .map(|(row, held)| {
            json!({"group": row.group, "name": row.name, "expected": row.expected, "held": held})
        })
        .collect();
    let isolation = isolation.name();
    let run =
        json!({"suite": suite, "isolation": isolation, "poolStrategy": strategy, "rows": rows});
    let directory = directory();
    fs::create_dir_all(&directory).expect("the target directory is writable");
    let path = directory.join(format!("{suite}-{isolation}-{strategy}.json"));
    fs::write(path, format!("{run:#}\n")).expect("the target directory is writable");
}

/// Makes the tables of all runs there are, one for each suite.
///
/// # Panics
/// If a run cannot be read, or a row did not hold: such a table is not to be published.
#[must_use]
pub fn tables() -> String {
    let mut suites: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let entries = fs::read_dir(directory()).expect("the suites have run and written their results");
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = fs::read_to_string(&path).expect("results can be read");
        let run: Value = serde_json::from_str(&text).expect("results are JSON");
        suites.entry(text_of(&run["suite"]).to_owned()).or_default().push(run);
    }
    let mut text = String::new();
    for (suite, runs) in &suites {
        table(&mut text, suite, runs);
    }
    text
}

fn table(text: &mut String, suite: &str, runs: &[Value]) {
    let rows = rows_of(&runs[0]);
    write!(text, "\n### {suite}: {} rows\n\n", rows.len()).expect("text takes text");
    text.push_str(
        "| group | what is tried | what comes of it | held with |\n| --- | --- | --- | --- |\n",
    );
    for row in rows {
        let held: Vec<String> =
            runs.iter().filter_map(|run| held_with(run, &row["name"])).collect();
        let [group, name, expected] =
            ["group", "name", "expected"].map(|field| text_of(&row[field]));
        writeln!(text, "{}{} |", line(group, name, expected), held.join(", "))
            .expect("text takes text");
    }
}

/// The isolation and pool strategy of a run, if the row was tried in it.
fn held_with(run: &Value, name: &Value) -> Option<String> {
    let row = rows_of(run).iter().find(|row| row["name"] == *name)?;
    let with = format!("{} `{}`", text_of(&run["isolation"]), text_of(&run["poolStrategy"]));
    assert!(row["held"] == true, "{name} did not hold with {with}");
    Some(with)
}

fn rows_of(run: &Value) -> &[Value] {
    run["rows"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Beginning of a row's line.
fn line(group: &str, name: &str, expected: &str) -> String {
    format!("| {group} | {name} | {expected} | ")
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

/// What is wrong with the line of a row: it must show the row, and at least one run in which it held.
fn check_line(row: &Row, shown: &str) -> Result<(), String> {
    let expected = line(row.group, row.name, row.expected);
    let held = shown.strip_prefix(&expected).and_then(|rest| rest.strip_suffix(" |"));
    let is_run = |run: &str| match run.split_once(' ') {
        Some((isolation, strategy)) => {
            Isolation::ALL.iter().any(|known| known.name() == isolation)
                && STRATEGIES.contains(&strategy.trim_matches('`'))
        }
        None => false,
    };
    match held {
        Some(held) if held.split(", ").all(is_run) => Ok(()),
        Some(held) => Err(format!("\"{held}\" does not say with what \"{}\" held", row.name)),
        None => Err(format!("it shows\n  {shown}\nwhere the suite has\n  {expected}")),
    }
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
    fn a_line_shows_all_of_its_row_and_nothing_unheard_of() {
        let row = Row { group: "g", name: "n", expected: "e" };
        for shown in
            ["| g | n | e | runtime `fast` |", "| g | n | e | runtime `fast`, runtime `secure` |"]
        {
            assert_eq!(check_line(&row, shown), Ok(()));
        }
        for shown in [
            "| g | n | e |  |",
            "| g | n | e | runtime `fast`",
            "| g | n | e | runtime `fast`,  |",
            "| g | n | e | runtime `slow` |",
            "| g | n | e | moon `fast` |",
            "| g | n | f | runtime `fast` |",
            "| g | m | e | runtime `fast` |",
        ] {
            assert!(check_line(&row, shown).is_err(), "{shown}");
        }
    }
}
