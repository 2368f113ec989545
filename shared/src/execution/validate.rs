//! Admission: from a request as written to a job that can run, or to an error that names what is
//! wrong and what would be right. Nothing after this step looks at client input unchecked.

use super::content::FileContent;
use super::job::{InputFile, Job, Limits, Source};
use super::request::{ExecuteEnvelope, ExecutionOptions, ExecutionRequest, Network};
use crate::config::{Config, Defaults, Policy};
use crate::error::{Error, ErrorCode};
use crate::runtime::Runtime;
use crate::size::parse_bytes;

/// Working directory and home of every program.
const SANDBOX: &str = "/sandbox";
/// Contract section 3.4.
const DEFAULT_PIDS: u32 = 64;
const DEFAULT_OUTPUT_BYTES: u64 = 1 << 20;
/// Least a container can start with.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
const MIN_PIDS: u32 = 8;
/// A path longer than this is refused by Linux.
const MAX_PATH_BYTES: usize = 4096;

/// The rules a request is checked against and completed from.
#[derive(Clone, Debug)]
pub struct Admission {
    defaults: Defaults,
    policy: Policy,
    max_memory_bytes: u64,
    max_disk_bytes: u64,
}

impl Admission {
    /// Rules of a configuration.
    ///
    /// # Errors
    /// If a size in the configuration is malformed.
    pub fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            max_memory_bytes: parse_bytes("policy.maxMemory", &config.policy.max_memory)?,
            max_disk_bytes: parse_bytes("policy.maxDisk", &config.policy.max_disk)?,
            defaults: config.defaults.clone(),
            policy: config.policy.clone(),
        })
    }

    /// Checks a request and fills in what it leaves open.
    ///
    /// # Errors
    /// An invalid-request, policy or not-supported error for the caller.
    pub fn admit(&self, envelope: ExecuteEnvelope) -> Result<Job, Error> {
        let ExecuteEnvelope { request, options, session_id } = envelope;
        if session_id.is_some_and(|id| !id.is_empty()) {
            return Err(not_supported("sessions (sessionId)"));
        }
        let runtime = Runtime::from_name(&request.runtime)?;
        let limits = self.limits(&options)?;
        Ok(Job {
            image: self.image(runtime, &options)?,
            source: source(runtime, &request)?,
            timeout_ms: self.timeout_ms(&request, &options)?,
            network: self.network(&options)?,
            workdir: workdir(request.workdir.as_deref())?,
            files: input_files(request.files)?,
            output_paths: output_paths(request.output_paths)?,
            setup_script: request.setup_script.filter(|script| !script.trim().is_empty()),
            env: environment("env", request.env)?,
            secrets: environment("secrets", options.secrets)?,
            stdin: request.stdin.filter(|stdin| !stdin.is_empty()),
            runtime,
            limits,
        })
    }

    fn limits(&self, options: &ExecutionOptions) -> Result<Limits, Error> {
        let size = |what, given: &Option<String>, default: &str| {
            parse_bytes(what, given.as_deref().unwrap_or(default))
        };
        let memory_bytes =
            size("memory limit", &options.memory_limit, &self.defaults.memory_limit)?;
        at_least("memoryLimit", memory_bytes, MIN_MEMORY_BYTES, "bytes")?;
        at_most("memoryLimit", memory_bytes, self.max_memory_bytes, "bytes")?;

        let sandbox_bytes =
            size("sandbox size", &options.sandbox_size, &self.defaults.sandbox_size)?;
        at_least("sandboxSize", sandbox_bytes, 4096, "bytes")?;
        at_most("sandboxSize", sandbox_bytes, self.max_disk_bytes, "bytes")?;
        let tmp_bytes = size("tmp size", &options.tmp_size, &self.defaults.tmp_size)?;
        at_least("tmpSize", tmp_bytes, 4096, "bytes")?;
        at_most("tmpSize", tmp_bytes, self.max_disk_bytes, "bytes")?;

        let pids = options.pids_limit.unwrap_or_else(|| DEFAULT_PIDS.into());
        let pids = u32::try_from(pids)
            .map_err(|_| Error::invalid(format!("pidsLimit must be at least {MIN_PIDS}")))?;
        at_least("pidsLimit", pids.into(), MIN_PIDS.into(), "processes")?;
        at_most("pidsLimit", pids.into(), self.policy.max_pids.into(), "processes")?;

        let max_output_bytes = options.max_output_size.unwrap_or(DEFAULT_OUTPUT_BYTES);
        at_most("maxOutputSize", max_output_bytes, self.policy.max_output_bytes, "bytes")?;

        let readonly_root = options.readonly_root_fs.unwrap_or(self.defaults.readonly_root_fs);
        if !readonly_root && !self.policy.allow_writable_root {
            return Err(policy("readonlyRootFs: false is not allowed by this server's policy"));
        }
        Ok(Limits {
            memory_bytes,
            cpu_millis: self.cpu_millis(options)?,
            pids,
            sandbox_bytes,
            tmp_bytes,
            readonly_root,
            max_output_bytes,
        })
    }

    fn cpu_millis(&self, options: &ExecutionOptions) -> Result<u64, Error> {
        let cores = options.cpu_limit.unwrap_or(self.defaults.cpu_limit);
        if !(cores.is_finite() && cores >= 0.01) {
            return Err(Error::invalid("cpuLimit must be a number of cores, at least 0.01"));
        }
        if cores > self.policy.max_cpu {
            return Err(policy(format!(
                "cpuLimit {cores} is over this server's ceiling of {} cores (policy.maxCpu)",
                self.policy.max_cpu
            )));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0.01 and a ceiling of some thousand cores"
        )]
        Ok((cores * 1000.0) as u64)
    }

    fn timeout_ms(
        &self,
        request: &ExecutionRequest,
        options: &ExecutionOptions,
    ) -> Result<u64, Error> {
        let timeout_ms =
            request.timeout_ms.or(options.timeout_ms).unwrap_or(self.defaults.timeout_ms);
        at_least("timeoutMs", timeout_ms, 1, "ms")?;
        at_most("timeoutMs", timeout_ms, self.policy.max_timeout_ms, "ms")?;
        Ok(timeout_ms)
    }

    fn network(&self, options: &ExecutionOptions) -> Result<Network, Error> {
        let network = options.network.unwrap_or(self.defaults.network);
        if network == Network::Filtered {
            return Err(not_supported("the filtered network"));
        }
        if !self.policy.networks.contains(&network) {
            return Err(policy(format!(
                "network mode {network:?} is not allowed by this server's policy (policy.networks)"
            )
            .to_lowercase()));
        }
        Ok(network)
    }

    fn image(&self, runtime: Runtime, options: &ExecutionOptions) -> Result<String, Error> {
        let Some(image) = options.image.as_deref().filter(|image| !image.is_empty()) else {
            return Ok(runtime.image().to_owned());
        };
        let is_reference = image.len() <= 255
            && image.starts_with(|c: char| c.is_ascii_alphanumeric())
            && image.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c));
        if !is_reference {
            return Err(Error::invalid(format!("image \"{image}\" is not an image reference")));
        }
        let allowed = image.starts_with("isol8:")
            || self.policy.images.iter().any(|pattern| matches_pattern(pattern, image));
        if !allowed {
            return Err(policy(format!(
                "image \"{image}\" is not allowed by this server's policy (policy.images)"
            )));
        }
        Ok(image.to_owned())
    }
}

fn policy(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::PolicyViolation, message)
}

fn not_supported(what: &str) -> Error {
    Error::new(ErrorCode::NotSupported, format!("This server does not offer {what}"))
}

fn at_least(field: &str, value: u64, floor: u64, unit: &str) -> Result<(), Error> {
    if value < floor {
        return Err(Error::invalid(format!("{field} is {value}; the least is {floor} {unit}")));
    }
    Ok(())
}

fn at_most(field: &str, value: u64, ceiling: u64, unit: &str) -> Result<(), Error> {
    if value > ceiling {
        return Err(policy(format!(
            "{field} is {value}, over this server's ceiling of {ceiling} {unit}"
        )));
    }
    Ok(())
}

/// Whether `text` fits a pattern in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => text.ends_with(last),
    }
}

/// Picks the one program source; a blank one counts as absent (contract section 3.1).
fn source(runtime: Runtime, request: &ExecutionRequest) -> Result<Source, Error> {
    let present = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let sources = (present(&request.code), present(&request.code_url), present(&request.cmd));
    match sources {
        (Some(text), None, None) => {
            Ok(Source::Code { text, extension: extension(runtime, request)? })
        }
        (None, Some(_), None) => Err(not_supported("code by URL (codeUrl)")),
        (None, None, Some(command)) => {
            if command.contains('\0') {
                return Err(Error::invalid("cmd contains a NUL character"));
            }
            Ok(Source::Command { command })
        }
        (None, None, None) => {
            Err(Error::invalid("Give exactly one of code, codeUrl and cmd; none was given"))
        }
        _ => Err(Error::invalid("code, codeUrl and cmd are mutually exclusive: give one of them")),
    }
    .and_then(|source| {
        if request.install_packages.is_empty() {
            Ok(source)
        } else {
            Err(not_supported("package installation (installPackages)"))
        }
    })
}

fn extension(runtime: Runtime, request: &ExecutionRequest) -> Result<String, Error> {
    let Some(extension) = request.file_extension.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(runtime.default_extension().to_owned());
    };
    let plain = extension.strip_prefix('.').unwrap_or(extension);
    let is_plain = !plain.is_empty()
        && plain.len() <= 16
        && plain.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_plain {
        return Err(Error::invalid(format!(
            "fileExtension \"{extension}\" must be a dot and letters or digits, like .py"
        )));
    }
    Ok(format!(".{plain}"))
}

/// Resolves a path against `/sandbox`, removing `.` and `..`. `None` if it climbs above `/`.
fn normalise(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { SANDBOX };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

fn is_inside(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn workdir(given: Option<&str>) -> Result<String, Error> {
    let given = given.unwrap_or(SANDBOX);
    normalise(given).filter(|path| is_inside(path, SANDBOX) && is_path(path)).ok_or_else(|| {
        Error::invalid(format!("Working directory must be inside /sandbox, not \"{given}\""))
    })
}

fn is_path(path: &str) -> bool {
    path.len() < MAX_PATH_BYTES && !path.contains('\0')
}

/// A file's path, which must lie in one of the writable places.
fn file_path(field: &str, given: &str) -> Result<String, Error> {
    normalise(given)
        .filter(|path| is_path(path))
        .filter(|path| {
            ["/sandbox", "/tmp"].iter().any(|root| is_inside(path, root) && path != root)
        })
        .ok_or_else(|| {
            Error::invalid(format!("{field}: \"{given}\" is not a path inside /sandbox or /tmp"))
        })
}

fn input_files(
    files: std::collections::BTreeMap<String, FileContent>,
) -> Result<Vec<InputFile>, Error> {
    files
        .into_iter()
        .map(|(path, content)| Ok(InputFile { path: file_path("files", &path)?, content }))
        .collect()
}

fn output_paths(paths: Option<Vec<String>>) -> Result<Option<Vec<String>>, Error> {
    // The result is keyed by what the client asked for, so the original spelling is kept.
    if let Some(paths) = &paths {
        for path in paths {
            if path.is_empty() || !is_path(path) {
                return Err(Error::invalid(format!("outputPaths: \"{path}\" is not a path")));
            }
        }
    }
    Ok(paths)
}

fn environment(
    field: &str,
    variables: std::collections::BTreeMap<String, String>,
) -> Result<std::collections::BTreeMap<String, String>, Error> {
    for (name, value) in &variables {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "{field}: \"{name}\" is not a variable name (no '=' and not empty)"
            )));
        }
        if value.contains('\0') {
            return Err(Error::invalid(format!("{field}: the value of {name} contains NUL")));
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests;
