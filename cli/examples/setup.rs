//! Temporary driver.
#[path = "../src/host/mod.rs"]
mod host;
#[path = "../src/commands/setup.rs"]
mod setup;
use clap::Parser as _;
#[derive(clap::Parser)]
struct Cli { #[command(flatten)] args: setup::SetupArgs, #[arg(long)] probe: Option<String> }
#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(dir) = cli.probe {
        let d = std::path::PathBuf::from(dir);
        let run = d.join("run");
        let daemon = host::dockerd::Daemon {
            arguments: ["--data-root", d.join("data").to_str().unwrap(), "--exec-root", run.to_str().unwrap(), "--pidfile", d.join("docker.pid").to_str().unwrap(), "-H", &format!("unix://{}", d.join("docker.sock").display()), "--bridge=none", "--iptables=false", "--ip6tables=false"].map(String::from).to_vec(),
            pid_files: vec![("dockerd", d.join("docker.pid")), ("containerd", run.join("containerd/containerd.pid"))],
            sockets: vec![d.join("docker.sock"), run.join("containerd/containerd.sock")],
            log: d.join("log"),
        };
        host::dockerd::launch(&daemon, host::Privilege::detect(), async || Ok(host::dockerd::connect().await?)).await?;
        println!("up");
        return Ok(());
    }
    if let Err(e) = setup::run(cli.args).await { eprintln!("[ERR] {e:#}"); std::process::exit(1); }
    Ok(())
}
