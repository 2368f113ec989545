//! What a package manager answers when asked for its settings. Asking starts an interpreter, which takes
//! longer than a short job, so an answer is kept: until a file that the manager reads, a variable or the
//! directory is another, and for a day at most. Answers may hold credentials: the file is for its owner alone.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use super::{find_program, run};
use crate::settings;

/// How long a manager may take to answer.
const TOOL_LIMIT: Duration = Duration::from_secs(15);
/// How long an answer is believed, for what nobody told us that it depends on.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
/// Answers of one manager that are kept: people have a few directories and terminals.
const MAX_KEPT: usize = 16;
/// Variables that differ from shell to shell and that no setting comes from.
const IRRELEVANT: [&str; 3] = ["_", "SHLVL", "OLDPWD"];
/// What else decides, in the directory or above it: a project's settings, or which version of a manager runs.
const OF_PROJECTS: [&str; 9] = [
    ".npmrc",
    "package.json",
    "node_modules",
    ".python-version",
    ".node-version",
    ".nvmrc",
    ".tool-versions",
    "mise.toml",
    ".mise.toml",
];

/// A package manager, and how it is asked.
pub(super) struct Manager {
    /// Its program.
    pub(super) program: &'static str,
    /// What makes it name the files that it reads.
    pub(super) sources: &'static [&'static str],
    /// Reads that.
    pub(super) files: fn(&str) -> Vec<PathBuf>,
    /// What makes it tell its settings.
    pub(super) settings: &'static [&'static str],
}

/// All that decides what a manager answers, besides files.
pub(super) struct Surroundings {
    /// Where answers are kept, if anywhere.
    folder: Option<PathBuf>,
    directory: PathBuf,
    variables: Vec<(OsString, OsString)>,
}

/// Answers of one manager, the last used first.
#[derive(Default, Serialize, Deserialize)]
struct Kept(Vec<Answer>);

#[derive(Clone, Serialize, Deserialize)]
struct Answer {
    /// Stands for program, directory and variables.
    surroundings: String,
    /// When it was given, in seconds since 1970.
    given: u64,
    sources: Vec<(PathBuf, Stamp)>,
    text: String,
}

/// What changes with a file. Its directory's entries are no part of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stamp {
    Absent,
    Directory,
    File { bytes: u64, inode: u64, modified_ns: i128, changed_ns: i128 },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let Ok(found) = std::fs::metadata(path) else { return Self::Absent };
        if found.is_dir() {
            return Self::Directory;
        }
        let nanoseconds =
            |seconds: i64, more: i64| i128::from(seconds) * 1_000_000_000 + i128::from(more);
        Self::File {
            bytes: found.size(),
            inode: found.ino(),
            modified_ns: nanoseconds(found.mtime(), found.mtime_nsec()),
            changed_ns: nanoseconds(found.ctime(), found.ctime_nsec()),
        }
    }
}

impl Surroundings {
    /// Those of this process.
    pub(super) fn own() -> Self {
        let mut variables: Vec<_> = std::env::vars_os().collect();
        variables.sort();
        Self {
            folder: settings::home().map(|home| home.join(".isol8/cache")),
            directory: std::env::current_dir().unwrap_or_default(),
            variables,
        }
    }

    /// What `manager` tells of its settings. One that is absent or fails has nothing to say: builds then
    /// use their own defaults.
    pub(super) async fn ask(&self, manager: &Manager) -> String {
        match find_program(manager.program) {
            Some(program) => self.ask_at(manager, &program).await,
            None => String::new(),
        }
    }

    async fn ask_at(&self, manager: &Manager, program: &Path) -> String {
        let surroundings = self.fingerprint(program);
        let file =
            self.folder.as_ref().map(|folder| folder.join(format!("{}.json", manager.program)));
        let mut kept = file.as_deref().map(read).unwrap_or_default();
        if let Some(answer) = kept.0.iter().find(|kept| kept.holds(&surroundings)) {
            return answer.text.clone();
        }
        match self.ask_anew(manager, program).await {
            Ok((text, sources)) => {
                // Without a list of its files nobody would notice when one changes.
                if let Some(file) = file.filter(|_| !sources.is_empty()) {
                    kept.0.retain(|kept| kept.surroundings != surroundings);
                    let given = now();
                    kept.0.insert(0, Answer { surroundings, given, sources, text: text.clone() });
                    kept.0.truncate(MAX_KEPT);
                    if let Err(error) = write(&file, &kept) {
                        tracing::debug!("an answer of {} is not kept: {error:#}", manager.program);
                    }
                }
                text
            }
            Err(error) => {
                tracing::debug!("{} did not print its settings: {error:#}", manager.program);
                String::new()
            }
        }
    }

    /// The answer, and what it came from as that was before.
    async fn ask_anew(
        &self,
        manager: &Manager,
        program: &Path,
    ) -> anyhow::Result<(String, Vec<(PathBuf, Stamp)>)> {
        let question = |words: &[&str]| {
            let mut command = Command::new(program);
            command.args(words).env_clear().envs(self.variables.iter().cloned());
            if !self.directory.as_os_str().is_empty() {
                command.current_dir(&self.directory);
            }
            command
        };
        let named = match run(&mut question(manager.sources), "read settings", TOOL_LIMIT).await {
            Ok(listing) => (manager.files)(&listing),
            // An old one, perhaps. It is asked each time.
            Err(_) => Vec::new(),
        };
        let sources = if named.is_empty() { named } else { self.all_sources(named, program) };
        let stamp = |path: PathBuf| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        };
        // Before the settings are told: what changes meanwhile is found changed.
        let stamped = sources.into_iter().map(stamp).collect();
        let text = run(&mut question(manager.settings), "read settings", TOOL_LIMIT).await?;
        Ok((text, stamped))
    }

    /// With what `named` files are, all that may decide which of them, and whose answer it is.
    fn all_sources(&self, named: Vec<PathBuf>, program: &Path) -> Vec<PathBuf> {
        let mut sources = named;
        sources.push(program.to_owned());
        if let Ok(real) = program.canonicalize() {
            // npm has a file of its own next to its program.
            let own = real.parent().and_then(Path::parent).map(|folder| folder.join("npmrc"));
            sources.extend(own);
            sources.push(real);
        }
        for folder in self.directory.ancestors() {
            sources.extend(OF_PROJECTS.iter().map(|name| folder.join(name)));
        }
        let home = self.variable("HOME").map(PathBuf::from);
        let pyenv = self.variable("PYENV_ROOT").map(PathBuf::from);
        sources.extend(
            pyenv.or_else(|| Some(home.as_ref()?.join(".pyenv"))).map(|root| root.join("version")),
        );
        sources.extend(home.map(|home| home.join(".tool-versions")));
        sources
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        self.variables.iter().find(|(found, _)| found == name).map(|(_, value)| value)
    }

    /// Every variable counts: settings may refer to any of them.
    fn fingerprint(&self, program: &Path) -> String {
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(program.as_os_str().as_bytes());
        add(self.directory.as_os_str().as_bytes());
        for (name, value) in &self.variables {
            if !IRRELEVANT.iter().any(|irrelevant| name == irrelevant) {
                add(name.as_bytes());
                add(value.as_bytes());
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Answer {
    fn holds(&self, surroundings: &str) -> bool {
        let age_s = now().checked_sub(self.given);
        self.surroundings == surroundings
            && age_s.is_some_and(|age_s| age_s < KEPT_FOR.as_secs())
            && self.sources.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What cannot be read, or was written by another version, is nothing.
fn read(file: &Path) -> Kept {
    std::fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Made for its owner alone, and moved into place: nobody ever sees half of it.
fn write(file: &Path, kept: &Kept) -> anyhow::Result<()> {
    let folder = file.parent().context("the file has no folder")?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(&serde_json::to_vec(kept)?)?;
    temporary.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A manager that counts how often it is asked, and answers with what is in its file.
    struct Stand {
        place: tempfile::TempDir,
        manager: Manager,
    }

    impl Stand {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("temporary folder");
            let script = "#!/bin/sh\nif [ \"$1\" = sources ]; then echo \"$SETTINGS\"; exit; fi\n\
                          echo asked >> \"$COUNT\"; cat \"$SETTINGS\" && echo \" $INDEX\"\n";
            let program = place.path().join("manager-of-tests");
            std::fs::write(&program, script).expect("write");
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
                .expect("chmod");
            std::fs::create_dir(place.path().join("project")).expect("folder");
            let manager = Manager {
                program: "manager-of-tests",
                sources: &["sources"],
                files: |listing| listing.lines().map(PathBuf::from).collect(),
                settings: &["settings"],
            };
            let this = Self { place, manager };
            this.write("settings", "one");
            this
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.place.path().join(name), text).expect("write");
        }

        fn surroundings(&self, index: &str) -> Surroundings {
            let path = |name: &str| self.place.path().join(name).into_os_string();
            let mut variables = vec![
                ("COUNT".into(), path("count")),
                ("INDEX".into(), index.into()),
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("SETTINGS".into(), path("settings")),
            ];
            variables.sort();
            Surroundings {
                folder: Some(self.place.path().join("home/.isol8/cache")),
                directory: self.place.path().join("project"),
                variables,
            }
        }

        async fn ask(&self, surroundings: &Surroundings) -> String {
            let program = self.place.path().join(self.manager.program);
            let answer = surroundings.ask_at(&self.manager, &program).await;
            answer.trim().to_owned()
        }

        fn asked(&self) -> usize {
            let count = std::fs::read_to_string(self.place.path().join("count"));
            count.unwrap_or_default().lines().count()
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_until_a_file_or_a_variable_is_another() {
        let stand = Stand::new();
        let surroundings = stand.surroundings("a");
        assert_eq!(stand.ask(&surroundings).await, "one a");
        assert_eq!(stand.ask(&surroundings).await, "one a");
        assert_eq!(stand.asked(), 1);
        // As long as before: the time of its change gives it away.
        stand.write("settings", "two");
        let file = std::fs::File::options().append(true).open(stand.place.path().join("settings"));
        file.and_then(|file| file.set_modified(UNIX_EPOCH + KEPT_FOR)).expect("set its time");
        assert_eq!(stand.ask(&surroundings).await, "two a");
        assert_eq!(stand.ask(&stand.surroundings("b")).await, "two b");
        // Both are kept.
        assert_eq!(stand.ask(&surroundings).await, "two a");
        assert_eq!(stand.ask(&stand.surroundings("b")).await, "two b");
        assert_eq!(stand.asked(), 3);
        // A file that was not there, of a project around.
        stand.write(".npmrc", "");
        assert_eq!(stand.ask(&surroundings).await, "two a");
        assert_eq!(stand.asked(), 4);
        std::fs::remove_file(stand.place.path().join("settings")).expect("remove");
        assert_eq!(stand.ask(&surroundings).await, "");
        stand.write("settings", "three");
        assert_eq!(stand.ask(&surroundings).await, "three a");
    }

    #[tokio::test]
    async fn what_is_kept_is_for_its_owner_alone_and_bounded() {
        let stand = Stand::new();
        for turn in 0..MAX_KEPT + 3 {
            stand.ask(&stand.surroundings(&turn.to_string())).await;
        }
        let folder = stand.place.path().join("home/.isol8/cache");
        let file = folder.join("manager-of-tests.json");
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
        assert_eq!(read(&file).0.len(), MAX_KEPT);
        std::fs::write(&file, "{broken").expect("write");
        assert_eq!(stand.ask(&stand.surroundings("1")).await, "one 1");
        // An answer of yesterday is asked for anew.
        let mut kept = read(&file);
        kept.0[0].given -= KEPT_FOR.as_secs();
        write(&file, &kept).expect("write");
        let before = stand.asked();
        stand.ask(&stand.surroundings("1")).await;
        assert_eq!(stand.asked(), before + 1);
    }
}
