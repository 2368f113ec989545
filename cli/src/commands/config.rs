//! `isol8 config`: the merged configuration and where it came from.

use std::process::ExitCode;

use shared::config::{Config, Loaded};

use crate::args::ConfigArgs;
use crate::printer;
use crate::settings;

pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let loaded = settings::load()?;
    if args.json {
        printer::line(serde_json::to_string_pretty(&loaded.config)?);
    } else {
        for line in text(&loaded) {
            printer::line(line);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A unit variant as its word in the file.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(String::from))
        .unwrap_or_default()
}

fn text(loaded: &Loaded) -> Vec<String> {
    let Config {
        max_concurrent,
        defaults,
        network,
        cleanup,
        pool_strategy,
        pool_size,
        security,
        remote_code,
        prebuilt_images,
        debug,
        redis,
        gateway,
        policy,
        ..
    } = &loaded.config;
    let source = loaded.source.as_ref().map_or_else(
        || "defaults (no config file found)".into(),
        |path| path.display().to_string(),
    );
    let list = |items: &[String]| {
        if items.is_empty() { "(none)".into() } else { items.join(", ") }
    };
    vec![
        "Isol8 Configuration".into(),
        format!("Source: {source}"),
        String::new(),
        "General".into(),
        format!("  Max concurrent:  {max_concurrent}"),
        format!("  Debug:           {debug}"),
        String::new(),
        "Defaults".into(),
        format!("  Timeout:         {} ms", defaults.timeout_ms),
        format!("  Memory:          {}", defaults.memory_limit),
        format!("  CPU:             {}", defaults.cpu_limit),
        format!("  Network:         {}", word(defaults.network)),
        format!("  Sandbox size:    {}", defaults.sandbox_size),
        format!("  Tmp size:        {}", defaults.tmp_size),
        format!("  Read-only root:  {}", defaults.readonly_root_fs),
        String::new(),
        "Network Filter".into(),
        format!("  Whitelist:       {}", list(&network.whitelist)),
        format!("  Blacklist:       {}", list(&network.blacklist)),
        String::new(),
        "Security".into(),
        format!("  Seccomp:         {}", security.seccomp),
        String::new(),
        "Remote Code".into(),
        format!("  Enabled:         {}", remote_code.enabled),
        format!("  Schemes:         {}", list(&remote_code.allowed_schemes)),
        format!("  Allowed hosts:   {}", list(&remote_code.allowed_hosts)),
        String::new(),
        "Cleanup".into(),
        format!("  Auto-prune:      {}", cleanup.auto_prune),
        format!("  Max idle age:    {} ms", cleanup.max_container_age_ms),
        String::new(),
        "Pool Defaults (Serve)".into(),
        format!("  Strategy:        {}", word(pool_strategy)),
        format!("  Clean:           {}", pool_size.clean),
        format!("  Dirty:           {}", pool_size.dirty),
        String::new(),
        "Fleet".into(),
        format!(
            "  Redis:           {}",
            if redis.url.is_some() { "(given)" } else { "(own server)" }
        ),
        format!("  Listen:          {}:{}", gateway.host, gateway.port),
        format!("  Prebuilt images: {}", prebuilt_images.len()),
        String::new(),
        "Policy".into(),
        format!("  Max memory:      {}", policy.max_memory),
        format!("  Max CPU:         {}", policy.max_cpu),
        format!("  Max processes:   {}", policy.max_pids),
        format!("  Max timeout:     {} ms", policy.max_timeout_ms),
    ]
}
