//! Files in which programs of the images keep credentials of whoever uses them. What they hold is for the
//! sandbox alone: a directory that is taken out of one leaves them behind.

/// The user's home in a sandbox, from where relative paths start.
const HOME: &str = "/sandbox";

/// Below the home: of the agent, of gh, of git, of curl.
const FILES: [&str; 7] = [
    ".pi/agent/auth.json",
    ".pi/agent/oauth.json",
    ".pi/agent/oauth.json.migrated",
    ".config/gh/hosts.yml",
    ".git-credentials",
    ".config/git/credentials",
    ".netrc",
];

/// The credential files below a directory of the sandbox, by their paths from there.
pub fn credential_files_below(directory: &str) -> impl Iterator<Item = String> {
    let place = if directory.starts_with('/') { "" } else { HOME };
    let directory = parts(&format!("{place}/{directory}"));
    FILES.into_iter().filter_map(move |file| {
        let file = parts(&format!("{HOME}/{file}"));
        file.strip_prefix(directory.as_slice()).map(|below| below.join("/"))
    })
}

fn parts(path: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_from_wherever_one_looks() {
        let below = |directory: &str| credential_files_below(directory).collect::<Vec<_>>();
        for home in ["/sandbox/", "/sandbox", "./", "/tmp/..//sandbox/./"] {
            assert_eq!(below(home), FILES, "{home}");
        }
        assert_eq!(below("/")[0], "sandbox/.pi/agent/auth.json");
        assert_eq!(
            below(".pi/"),
            ["agent/auth.json", "agent/oauth.json", "agent/oauth.json.migrated"]
        );
        assert_eq!(
            below("/sandbox/.pi/"),
            ["agent/auth.json", "agent/oauth.json", "agent/oauth.json.migrated"]
        );
        assert_eq!(below("/sandbox/.config"), ["gh/hosts.yml", "git/credentials"]);
        assert!(below("/sandbox/project/").is_empty());
        assert!(below("/tmp/").is_empty());
    }
}
