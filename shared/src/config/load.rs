//! Finding the configuration and putting its layers on top of each other, keeping track of where
//! each value came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use figment::providers::{Format as _, Json, Serialized};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider as _};

use super::environment::{self, Variable};
use super::{Config, check};
use crate::error::Error;

/// File looked for in the working directory.
const PROJECT_FILE: &str = "isol8.config.json";
/// File looked for below the home directory.
const HOME_FILE: &str = ".isol8/config.json";

/// Where a process looks for its configuration.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The working directory.
    pub directory: PathBuf,
    /// The user's home directory, if there is one.
    pub home: Option<PathBuf>,
    /// The environment variables.
    pub environment: BTreeMap<String, String>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Variable(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged values.
    pub config: Config,
    /// The file read, if one was found.
    pub source: Option<PathBuf>,
    /// Where each value came from that is not a default, by its path, like `defaults.timeoutMs`.
    /// A list is one value.
    pub sources: BTreeMap<String, Source>,
}

impl Config {
    /// Loads the first of `<directory>/isol8.config.json` and `<home>/.isol8/config.json` over the
    /// defaults, and the environment's `ISOL8_*` over it.
    ///
    /// # Errors
    /// An invalid-request error that names the file or variable, the key, and what is allowed.
    pub fn load(surroundings: &Surroundings) -> Result<Loaded, Error> {
        Self::load_over(Self::default(), surroundings)
    }

    /// Like [`Config::load`], over other defaults.
    ///
    /// # Errors
    /// As there.
    pub fn load_over(base: Self, surroundings: &Surroundings) -> Result<Loaded, Error> {
        let Surroundings { directory, home, environment } = surroundings;
        let candidates =
            [Some(directory.join(PROJECT_FILE)), home.as_ref().map(|home| home.join(HOME_FILE))];
        let source = candidates.into_iter().flatten().find(|path| path.is_file());

        let variables = environment::variables(environment);
        let (below, above): (Vec<Variable>, Vec<Variable>) =
            variables.into_iter().partition(Variable::is_below_the_file);
        let mut figment = Figment::from(Serialized::defaults(base));
        for variable in below {
            figment = figment.merge(variable);
        }
        if let Some(path) = &source {
            figment = figment.merge(Json::file_exact(path));
        }
        for variable in above {
            figment = figment.merge(variable);
        }

        let sources = sources(&figment);
        let config: Self = figment.extract().map_err(|error| refusal(&error, &sources))?;
        check::check(&config).map_err(|contradiction| contradiction.refusal(&sources))?;
        Ok(Loaded { config, source, sources })
    }
}

/// Where every value that is not a default came from.
fn sources(figment: &Figment) -> BTreeMap<String, Source> {
    let mut found = BTreeMap::new();
    // Layers that cannot be read have no values; why, the extraction says.
    let data = figment.data().ok().and_then(|mut data| data.remove(&Profile::Default));
    collect(figment, "", &data.unwrap_or_default(), &mut found);
    found
}

fn collect(figment: &Figment, prefix: &str, dict: &Dict, found: &mut BTreeMap<String, Source>) {
    for (key, value) in dict {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Value::Dict(_, inner) = value
            && !inner.is_empty()
        {
            collect(figment, &path, inner, found);
            continue;
        }
        let metadata = figment.get_metadata(value.tag());
        let source = metadata.and_then(|metadata| match &metadata.source {
            Some(figment::Source::File(file)) => Some(Source::File(file.clone())),
            Some(figment::Source::Custom(name)) => Some(Source::Variable(name.clone())),
            _ => None,
        });
        found.extend(source.map(|source| (path, source)));
    }
}

/// What is wrong with a value, in words for whoever wrote it.
fn refusal(error: &figment::Error, sources: &BTreeMap<String, Source>) -> Error {
    use figment::error::Kind;
    let path = error.path.join(".");
    let (path, problem) = match &error.kind {
        Kind::UnknownField(name, known) => {
            (path, format!("there is no such key{}", nearest(name, known)))
        }
        Kind::UnknownVariant(name, known) => {
            (path, format!("\"{name}\" is not one of {}", known.join(", ")))
        }
        Kind::MissingField(name) => (path, format!("\"{name}\" is missing")),
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            (path, format!("it must be {wanted}, not {found}"))
        }
        other => (path, other.to_string()),
    };
    // The value itself, or what is inside or around it: all of them came from one place.
    let of_error = error.metadata.as_ref().and_then(|metadata| metadata.source.as_ref());
    let place = sources
        .get(&path)
        .or_else(|| {
            let inside = format!("{path}.");
            sources.iter().find(|(key, _)| key.starts_with(&inside)).map(|(_, source)| source)
        })
        .map(ToString::to_string)
        .or_else(|| {
            of_error.map(|source| match source {
                figment::Source::File(file) => file.display().to_string(),
                other => other.to_string(),
            })
        });
    let place = place.map_or_else(String::new, |place| format!("{place}: "));
    let at = if path.is_empty() { path } else { format!("{path}: ") };
    Error::invalid(format!("Configuration is not valid: {place}{at}{problem}"))
}

/// What may have been meant, and all that could have been.
fn nearest(name: &str, known: &[&str]) -> String {
    let score = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase());
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)));
    match best.filter(|best| score(best) > 0.7) {
        Some(best) => format!("; did you mean \"{best}\"?"),
        None => format!(". Known are: {}", known.join(", ")),
    }
}
