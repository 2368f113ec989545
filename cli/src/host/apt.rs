//! Reads the machine's own package sources, in both formats, to find the mirror it uses.

use std::path::Path;

/// One suite of one Debian or Ubuntu archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Address of the archive.
    pub(super) uri: String,
    /// Suite, such as `bookworm-updates`.
    pub(super) suite: String,
    /// Components, such as `main`.
    pub(super) components: Vec<String>,
    /// Whether the machine's owner trusts it without a signature.
    pub(super) is_trusted: bool,
}

impl Source {
    /// The one-line format.
    pub(super) fn to_line(&self) -> String {
        let options = if self.is_trusted { "[trusted=yes] " } else { "" };
        format!("deb {options}{} {} {}\n", self.uri, self.suite, self.components.join(" "))
    }

    /// Whether it belongs to this release, rather than being somebody's addition to it.
    pub(super) fn is_of(&self, release: &str) -> bool {
        match self.suite.strip_prefix(release) {
            Some("") => true,
            Some(rest) => matches!(rest, "-updates" | "-security"),
            None => false,
        }
    }
}

/// Reads every source file below `root` (`/` but in tests). What can't be read is left out: it is
/// of no use to apt either.
pub(super) fn read_sources(root: &Path) -> Vec<Source> {
    let folder = root.join("etc/apt/sources.list.d");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    files.insert(0, root.join("etc/apt/sources.list"));
    files
        .iter()
        .filter_map(|file| {
            let text = std::fs::read_to_string(file).ok()?;
            match file.extension()?.to_str()? {
                "list" => Some(parse_lines(&text)),
                "sources" => Some(parse_stanzas(&text)),
                _ => None,
            }
        })
        .flatten()
        .collect()
}

/// The one-line format: `deb [options] uri suite component…`.
pub(super) fn parse_lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    // Not `deb-src`.
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let option = |name: &str| {
        options.split_whitespace().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let source = Source {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
        is_trusted: option("trusted") == Some("yes"),
    };
    is_archive(&source, option("signed-by").unwrap_or_default()).then_some(source)
}

/// The stanza format: `Field: value`, values continued on indented lines, stanzas apart by an empty
/// line.
pub(super) fn parse_stanzas(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect();
    without_comments
        .split(|line| line.is_empty())
        .flat_map(|stanza| sources_of_stanza(&fields_of(stanza)))
        .collect()
}

fn fields_of(stanza: &[&str]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in stanza {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    fields
}

fn sources_of_stanza(fields: &[(String, String)]) -> Vec<Source> {
    let field = |name: &str| {
        fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str())
    };
    let is_enabled = !matches!(field("enabled").to_ascii_lowercase().as_str(), "no" | "false");
    let has_packages = field("types").split_whitespace().any(|kind| kind == "deb");
    if !is_enabled || !has_packages {
        return Vec::new();
    }
    let mut sources = Vec::new();
    for uri in field("uris").split_whitespace() {
        for suite in field("suites").split_whitespace() {
            sources.push(Source {
                uri: uri.to_owned(),
                suite: suite.to_owned(),
                components: field("components").split_whitespace().map(str::to_owned).collect(),
                is_trusted: field("trusted") == "yes",
            });
        }
    }
    sources.retain(|source| is_archive(source, field("signed-by")));
    sources
}

/// Whether this is the distribution's own archive, reachable from a build, with nothing secret in
/// its address. Additions by others carry their own key.
fn is_archive(source: &Source, signed_by: &str) -> bool {
    let address =
        source.uri.strip_prefix("http://").or_else(|| source.uri.strip_prefix("https://"));
    let has_plain_address =
        address.is_some_and(|address| !address.split('/').next().unwrap_or_default().contains('@'));
    let has_archive_key = signed_by.is_empty() || signed_by.contains("archive-keyring");
    has_plain_address && has_archive_key && source.components.iter().any(|name| name == "main")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, components: &[&str]) -> Source {
        Source {
            uri: uri.into(),
            suite: suite.into(),
            components: components.iter().map(|&name| name.into()).collect(),
            is_trusted: false,
        }
    }

    #[test]
    fn one_line_sources_are_read_without_comments_options_and_additions() {
        let text = "\
# deb http://mirror.example/debian old main
deb http://mirror.example/debian bookworm main contrib # ours
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://mirror.example/security bookworm-security main
deb [signed-by=/etc/apt/keyrings/tool.gpg] https://tool.example/apt bookworm main
deb http://user:secret@mirror.example/debian bookworm main
deb file:/srv/mirror bookworm main
deb [trusted=yes] http://local.example/debian bookworm-updates main
deb https://other.example/apt stable tools
";
        let mut trusted = source("http://local.example/debian", "bookworm-updates", &["main"]);
        trusted.is_trusted = true;
        assert_eq!(
            parse_lines(text),
            [
                source("http://mirror.example/debian", "bookworm", &["main", "contrib"]),
                source("https://mirror.example/security", "bookworm-security", &["main"]),
                trusted,
            ]
        );
    }

    #[test]
    fn stanzas_are_read_with_continuations_and_switched_off_ones_left_out() {
        let text = "\
Types: deb deb-src
# where it came from
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: https://tool.example/apt
Suites: nodistro
Components: main
Signed-By: /usr/share/keyrings/tool.gpg
";
        assert_eq!(
            parse_stanzas(text),
            [
                source("http://mirror.example/debian", "bookworm", &["main"]),
                source("http://mirror.example/debian", "bookworm-updates", &["main"]),
            ]
        );
    }

    #[test]
    fn a_release_has_its_updates_and_nobody_elses_suites() {
        let is_of = |suite| source("http://x", suite, &["main"]).is_of("bookworm");
        assert!(is_of("bookworm") && is_of("bookworm-security") && is_of("bookworm-updates"));
        assert!(!is_of("trixie") && !is_of("bookworm-pgdg") && !is_of("cloud-sdk-bookworm"));
    }

    #[test]
    fn lines_written_are_lines_read() {
        let mut original = source("http://mirror.example/debian", "bookworm", &["main", "contrib"]);
        original.is_trusted = true;
        assert_eq!(parse_lines(&original.to_line()), [original]);
    }

    #[test]
    fn both_formats_are_found_on_disk() {
        let root = tempfile::tempdir().expect("temporary folder");
        let folder = root.path().join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&folder).expect("folder");
        let line = "deb http://a.example/debian bookworm main\n";
        std::fs::write(root.path().join("etc/apt/sources.list"), line).expect("write");
        let stanza =
            "Types: deb\nURIs: http://b.example/debian\nSuites: bookworm\nComponents: main\n";
        std::fs::write(folder.join("b.sources"), stanza).expect("write");
        std::fs::write(folder.join("c.list.save"), line).expect("write");
        let uris: Vec<_> = read_sources(root.path()).into_iter().map(|source| source.uri).collect();
        assert_eq!(uris, ["http://a.example/debian", "http://b.example/debian"]);
    }
}
