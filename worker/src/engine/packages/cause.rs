//! Why an installation failed, for whoever asked for the packages: first what this machine itself saw (who
//! was not reached, what was blocked), then what the package manager says, without ornaments.

use std::borrow::Cow;
use std::collections::BTreeMap;

use shared::audit::SecurityEvent;

use crate::egress::Report;

/// Last lines of a package manager that are told, and bytes of them.
const SHOWN_LINES: usize = 12;
const SHOWN_BYTES: usize = 2048;
/// Places that are named.
const SHOWN_PLACES: usize = 4;

/// What the operating system, by whichever words, says of a full disk.
const NO_ROOM: [&str; 4] = ["ENOSPC", "No space left on device", "no space left", "os error 28"];
/// How the package manager of Debian, whose connections are not ours, says that a source did not answer;
/// its host follows.
const NO_SOURCE: [&str; 5] = [
    "Could not connect to ",
    "Unable to connect to ",
    "Cannot initiate the connection to ",
    "Could not resolve ",
    "Temporary failure resolving ",
];
/// Lists of versions, the newest last: what stands before them, and between two.
const VERSIONS: [(&str, &str); 2] =
    [("(from versions: ", ", "), ("versions that require a different python version: ", "; ")];
/// Versions that are told.
const SHOWN_VERSIONS: usize = 5;
/// How they say that there is no such thing.
const NO_PACKAGE: [&str; 12] = [
    "No matching distribution found",
    "code E404",
    "code ETARGET",
    "code ENOVERSIONS",
    " failed to resolve",
    " - 404",
    "No version matching",
    "does not exist",
    "Could not find version",
    "Unable to locate package",
    "has no installation candidate",
    "' was not found",
];
/// Lines that tell how the tool works, not what is wrong.
const ASIDES: [&str; 8] = [
    "Step ",
    "---> ",
    "Removing intermediate container ",
    "The command ",
    "Successfully built ",
    "debconf: delaying ",
    "npm error A complete log of this run",
    "npm error /sandbox/cache/_logs/",
];

/// Room that an installation had.
#[derive(Clone, Copy)]
pub(super) enum Room {
    /// That of its sandbox.
    OfSandbox {
        /// For what was downloaded and unpacked.
        bytes: u64,
        /// For what is kept of it.
        set_bytes: u64,
    },
    /// That of the engine's disk.
    OfMachine,
}

/// The cause, as far as it is known, and the last lines of what the package manager wrote.
pub(super) fn explain(output: &str, report: &Report, room: Room) -> String {
    let says = |words: &[&str]| words.iter().any(|words| output.contains(words));
    let mut causes = Vec::new();
    if says(&NO_ROOM) {
        causes.push(match room {
            Room::OfSandbox { bytes, set_bytes } => format!(
                "no room: what is downloaded and unpacked may take {bytes} bytes, and what is kept of \
                 it {set_bytes} (worker.packageSetSize)"
            ),
            Room::OfMachine => "no room on the worker's disk".to_owned(),
        });
    }
    causes.extend(of_network(report));
    if causes.is_empty() {
        causes.extend(unanswered(output));
    }
    if causes.is_empty() && says(&NO_PACKAGE) {
        causes.push("no such package or version".to_owned());
    }
    let words = last_words(output);
    if causes.is_empty() {
        words
    } else {
        format!("{}\n{words}", causes.join("; ")).trim_end().to_owned()
    }
}

/// The sources that a package manager says it did not reach, each once, and why if it says so:
/// `Could not connect to HOST:PORT (ADDRESS). - connect (111: Connection refused)`.
fn unanswered(output: &str) -> Vec<String> {
    let mut sources = BTreeMap::<&str, String>::new();
    for line in output.lines() {
        let said = NO_SOURCE.iter().find_map(|words| Some((words, line.split_once(words)?.1)));
        let Some((words, rest)) = said else { continue };
        let source = rest.split_whitespace().next().unwrap_or_default();
        let source = source.trim_matches(|it| "'\",;:.".contains(it));
        if source.is_empty() {
            continue;
        }
        let why = rest.rsplit_once("connect (").and_then(|(_, why)| why.split_once(": "));
        let why = why.and_then(|(_, why)| why.split_once(')'));
        let known = sources.entry(source).or_default();
        if let Some((why, _)) = why {
            *known = format!(" ({})", why.to_lowercase());
        } else if known.is_empty() && words.contains("resolv") {
            *known = " (its name is not known)".to_owned();
        }
    }
    let told =
        sources.into_iter().map(|(source, why)| format!("could not connect to {source}{why}"));
    told.take(SHOWN_PLACES).collect()
}

/// What of the network may be a cause.
pub(super) fn of_network(report: &Report) -> Vec<String> {
    let unreached = report.unreached.iter().map(|(place, why)| {
        let place = format!("{}:{}", place.host, place.port);
        if why.is_empty() {
            format!("could not connect to {place}")
        } else {
            format!("could not connect to {place} ({why})")
        }
    });
    let mut blocked: Vec<String> = report.events.iter().filter_map(blocked).collect();
    blocked.sort();
    blocked.dedup();
    unreached.take(SHOWN_PLACES).chain(blocked.into_iter().take(SHOWN_PLACES)).collect()
}

fn blocked(event: &SecurityEvent) -> Option<String> {
    let host = event.details.get("host")?.as_str()?;
    let port = event.details.get("port")?.as_u64()?;
    if event.details.get("reason")?.as_str()? == "byte_limit" {
        return Some("the installer has moved as many bytes over the network as it may".to_owned());
    }
    Some(format!("refused by policy: {host}:{port} is no known registry (worker.registryHosts)"))
}

/// The last lines that mean something, as plain text.
pub(super) fn last_words(output: &str) -> String {
    let plain = without_escapes(output);
    let lines: Vec<&str> = plain
        .lines()
        // What was written over is progress.
        .map(|line| line.trim_end().rsplit('\r').next().unwrap_or_default())
        .filter(|line| !line.trim().is_empty())
        .filter(|line| !ASIDES.iter().any(|aside| line.trim_start().starts_with(aside)))
        .collect();
    let mut shown: Vec<Cow<'_, str>> = Vec::new();
    let mut room = SHOWN_BYTES;
    for line in lines.into_iter().rev().take(SHOWN_LINES).map(with_few_versions) {
        if line.len() > room {
            if shown.is_empty() {
                shown.push(line[..line.floor_char_boundary(room)].to_owned().into());
            }
            break;
        }
        room -= line.len();
        shown.push(line);
    }
    shown.reverse();
    shown.join("\n").trim().to_owned()
}

/// Leaves the newest versions of a list of all that there ever were.
fn with_few_versions(line: &str) -> Cow<'_, str> {
    for (before, between) in VERSIONS {
        let Some(start) = line.find(before).map(|at| at + before.len()) else { continue };
        let end = line[start..].find(')').map_or(line.len(), |at| start + at);
        let versions: Vec<&str> = line[start..end].split(between).collect();
        let older = versions.len().saturating_sub(SHOWN_VERSIONS);
        if older > 1 {
            let newest = versions[older..].join(between);
            let (head, tail) = (&line[..start], &line[end..]);
            return format!("{head}{newest} and {older} more{tail}").into();
        }
    }
    line.into()
}

/// Takes out what is meant for a terminal: colours, movements, titles.
fn without_escapes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            if !character.is_control() || matches!(character, '\n' | '\r' | '\t') {
                plain.push(character);
            }
            continue;
        }
        match characters.next() {
            // Ends with a letter or the like.
            Some('[') => while characters.next().is_some_and(|it| !('@'..='~').contains(&it)) {},
            // Ends with a bell, or with an escape and a backslash.
            Some(']') => {
                while let Some(character) = characters.next() {
                    if character == '\u{7}' {
                        break;
                    }
                    if character == '\u{1b}' {
                        characters.next();
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use crate::egress::Target;

    use super::*;

    const ROOM: Room = Room::OfSandbox { bytes: 20, set_bytes: 10 };

    fn unreached(place: &str, why: &str) -> Report {
        let (host, port) = shared::net::Host::with_port(place).unwrap();
        let target = Target { host, port: port.unwrap() };
        Report { unreached: [(target, why.to_owned())].into(), ..Report::default() }
    }

    #[test]
    fn who_was_not_reached_is_named_whatever_the_manager_says() {
        let output = "ERROR: No matching distribution found for six";
        let report = unreached("mirror.example:8443", "connection refused");
        let explained = explain(output, &report, ROOM);
        let first = "could not connect to mirror.example:8443 (connection refused)";
        assert_eq!(explained, format!("{first}\n{output}"));
        let explained = explain(output, &Report::default(), ROOM);
        assert_eq!(explained, format!("no such package or version\n{output}"));
    }

    #[test]
    fn a_full_disk_is_told_with_its_limit() {
        for output in
            ["npm error nospc ENOSPC: write", "OSError: [Errno 28] No space left on device"]
        {
            let explained = explain(output, &Report::default(), ROOM);
            assert!(explained.starts_with("no room: "), "{explained}");
            assert!(explained.contains("20 bytes") && explained.ends_with(output), "{explained}");
        }
        assert_eq!(explain("broken", &Report::default(), ROOM), "broken");
    }

    #[test]
    fn sources_of_debian_that_do_not_answer_are_named() {
        let output = "W: Failed to fetch http://a.example/dists/x  Could not connect to 127.0.0.1:1 \
                      (127.0.0.1). - connect (111: Connection refused)\n\
                      W: Failed to fetch http://a.example/dists/y  Unable to connect to 127.0.0.1:1:\n\
                      W: Failed to fetch http://b.example/z  Temporary failure resolving 'b.example'\n\
                      W: Failed to fetch http://b.example/y  Temporary failure resolving 'b.example'\n\
                      E: Unable to locate package jq";
        let explained = explain(output, &Report::default(), Room::OfMachine);
        let cause = "could not connect to 127.0.0.1:1 (connection refused); \
                     could not connect to b.example (its name is not known)";
        assert_eq!(explained.lines().next(), Some(cause));
    }

    #[test]
    fn of_many_versions_the_newest_are_told() {
        let list = |count: usize| (0..count).map(|it| format!("1.{it}")).collect::<Vec<_>>();
        let line =
            |versions: Vec<String>| format!("ERROR: x (from versions: {})", versions.join(", "));
        let few = line(list(6));
        assert_eq!(last_words(&few), few);
        assert_eq!(
            last_words(&line(list(150))),
            "ERROR: x (from versions: 1.145, 1.146, 1.147, 1.148, 1.149 and 145 more)"
        );
        let ignored = format!(
            "ERROR: Ignored the following versions that require a different python version: {}",
            list(150).join(" Requires-Python >=3.7,<3.11; ")
        );
        assert!(last_words(&ignored).ends_with("; 1.149 and 145 more"));
        assert!(last_words(&ignored).len() < 400);
    }

    #[test]
    fn what_remains_of_the_output_is_plain_and_means_something() {
        let output = "Step 3/4 : RUN apt-get install\n ---> Running in 0123\n\u{1b}[91mE: Unable to locate package \
                      x\n\u{1b}[0mRemoving intermediate container 0123\n10%\r50%\rdone\n\u{1b}]0;title\u{7}\n\
                      The command '/bin/sh -c x' returned a non-zero code: 100";
        assert_eq!(last_words(output), "E: Unable to locate package x\ndone");
        let many: String = (0..100).map(|number| format!("line {number}\n")).collect();
        let shown = last_words(&many);
        assert_eq!(shown.lines().count(), SHOWN_LINES);
        assert!(shown.ends_with("line 99"), "{shown}");
        assert_eq!(last_words(&"é".repeat(SHOWN_BYTES)).len(), SHOWN_BYTES);
        assert_eq!(last_words("\u{1b}"), "");
        assert_eq!(last_words("\u{1b}[3"), "");
    }
}
