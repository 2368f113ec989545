//! Why an installation failed, for whoever asked for the packages: first what this machine itself saw (who
//! was not reached, what was blocked), then what the package manager says, without ornaments.

use shared::audit::SecurityEvent;

use crate::egress::Report;

/// Last lines of a package manager that are told, and bytes of them.
const SHOWN_LINES: usize = 12;
const SHOWN_BYTES: usize = 2048;
/// Places that are named.
const SHOWN_PLACES: usize = 4;

/// What the operating system, by whichever words, says of a full disk.
const NO_ROOM: [&str; 4] = ["ENOSPC", "No space left on device", "no space left", "os error 28"];
/// How package managers say that a source did not answer: those of Debian, whose connections are not ours.
const NO_SOURCE: [&str; 3] =
    ["Could not resolve", "Temporary failure resolving", "Could not connect to"];
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
    if causes.is_empty() && says(&NO_SOURCE) {
        causes.push("could not connect to a source of packages".to_owned());
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
    let mut shown = Vec::new();
    let mut room = SHOWN_BYTES;
    for line in lines.into_iter().rev().take(SHOWN_LINES) {
        if line.len() > room {
            if shown.is_empty() {
                shown.push(&line[..line.floor_char_boundary(room)]);
            }
            break;
        }
        room -= line.len();
        shown.push(line);
    }
    shown.reverse();
    shown.join("\n").trim().to_owned()
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
