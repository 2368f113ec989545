//! The tools that programs bring things in with, through the filtered network: package managers
//! against their real registries, whose hosts are read from the tools themselves, and git against a
//! server of the test's. Where the host is not allowed, none of them gets anything.

use base64::Engine as _;
use serde_json::{Value, json};
use tests::upstream::Answer;
use tests::{Api, Findings, Stack, Upstream, code, command};

/// Registries are far away, and their answers may take their time.
const TIMEOUT_MS: u64 = 100_000;
const TRIES: usize = 3;

/// What the image of a runtime says to a question.
async fn ask(api: &Api, runtime: &str, line: &str) -> Vec<String> {
    let result = api.run(command(runtime, line)).await;
    let text = result["stdout"].as_str().unwrap_or_default().trim().to_owned();
    assert!(!text.is_empty(), "{result}");
    text.split_whitespace().map(str::to_owned).collect()
}

/// A pattern for the host of a URL, or of a name, and for no other.
fn pattern(place: &str) -> String {
    let host = place.split("//").last().unwrap_or_default();
    let host = host.split(['/', ':']).next().unwrap_or_default();
    format!("^{}$", host.replace('.', "\\."))
}

/// A tool at work.
struct Work<'a> {
    name: &'a str,
    body: Value,
    hosts: Vec<String>,
    /// What it says in the end.
    says: &'a str,
}

impl Work<'_> {
    async fn run(&self, api: &Api, allow: &[String]) -> Value {
        let mut body = self.body.clone();
        body["request"]["timeoutMs"] = json!(TIMEOUT_MS);
        // Node and Bun do not look at the authorities of the image by themselves.
        body["request"]["env"] =
            json!({"NODE_EXTRA_CA_CERTS": AUTHORITIES, "DENO_TLS_CA_STORE": "system"});
        let filter = json!({"whitelist": allow, "blacklist": []});
        body["options"] =
            json!({"network": "filtered", "networkFilter": filter, "logNetwork": true});
        api.run(body).await
    }

    /// With its hosts allowed. A registry may be busy.
    async fn works(&self, api: &Api) -> Result<(), String> {
        let allow: Vec<String> = self.hosts.iter().map(|host| pattern(host)).collect();
        let mut last = Value::Null;
        for _ in 0..TRIES {
            last = self.run(api, &allow).await;
            if last["stdout"].as_str().is_some_and(|said| said.contains(self.says)) {
                return Ok(());
            }
        }
        Err(last.to_string())
    }

    /// With others allowed.
    async fn is_refused(&self, api: &Api) -> Result<(), String> {
        let result = self.run(api, &["^example\\.com$".to_owned()]).await;
        let said = result["stdout"].as_str().unwrap_or_default();
        let requests = result["networkLogs"].as_array().cloned().unwrap_or_default();
        let is_blocked =
            !requests.is_empty() && requests.iter().all(|request| request["action"] == "BLOCK");
        if is_blocked && !said.contains(self.says) { Ok(()) } else { Err(result.to_string()) }
    }
}

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const PIP_HOSTS: &str = "python3 -c 'from pip._internal.models.index import PyPI as it; print(it.simple_url, it.file_storage_domain)'";

/// Makes a repository that is served as plain files; prints their names and contents.
const REPOSITORY: &str = "export HOME=/tmp; git init -q r && cd r && echo cloned > it && git add it && \
    git -c user.name=a -c user.email=a@b commit -qm it && git update-server-info && cd .git && \
    find . -type f | while read -r file; do echo \"/r.git/${file#./} $(base64 -w 0 \"$file\")\"; done";

async fn git_server(api: &Api) -> Upstream {
    let made = api.run(command("bash", REPOSITORY)).await;
    let made = made["stdout"].as_str().expect("it prints").to_owned();
    Upstream::start("127.0.0.2", move |request| {
        let path = request.path().split('?').next().unwrap_or_default();
        let mut files = made.lines().filter_map(|line| line.split_once(' '));
        match files.find(|(name, _)| *name == path) {
            Some((_, text)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                Answer::ok(bytes.expect("it is what base64 wrote"))
            }
            None => Answer::status("404 Not Found"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_go_through_the_filtered_network_or_get_nothing() {
    let (stack, api) = Stack::serve(&json!({
        "policy": {"allowPrivateAddresses": ["127.0.0.0/8"]},
        "worker": {"prewarm": ["bash"]},
    }));
    let pip = ask(&api, "python", PIP_HOSTS).await;
    let npm = ask(&api, "node", "npm config get registry").await;
    let repositories = git_server(&api).await;

    let package = format!("{}/is-odd", npm[0].trim_end_matches('/'));
    let fetch = format!(
        "const answer = await fetch('{package}'); console.log('name:', (await answer.json()).name);"
    );
    let clone = format!("git clone -q {} c && cat c/it", repositories.at("/r.git"));
    let work =
        |name, body, hosts: &[String], says| Work { name, body, hosts: hosts.to_vec(), says };
    let of_git = [repositories.address.ip().to_string()];
    let works = [
        work("git clone", command("bash", &clone), &of_git, "cloned"),
        work(
            "curl",
            command("bash", &format!("curl -sf {package} | head -c 100 | grep -o is-odd")),
            &npm,
            "is-odd",
        ),
        work(
            "pip download",
            command(
                "python",
                "pip -q --retries 0 download --no-deps -d got six 2>&1; ls got | grep -o '^six-'",
            ),
            &pip,
            "six-",
        ),
        work(
            "npm view and pack",
            command(
                "node",
                "npm --fetch-retries=0 view is-odd name && npm --fetch-retries=0 pack is-odd 2>&1 | grep -o 'is-odd-.*tgz' | tail -n 1",
            ),
            &npm,
            ".tgz",
        ),
        work("fetch of node", code("node", &fetch), &npm, "name: is-odd"),
        work("fetch of bun", code("bun", &fetch), &npm, "name: is-odd"),
        work("bun add", command("bun", "bun add is-odd 2>&1"), &npm, "installed is-odd"),
        work("fetch of deno", code("deno", &fetch), &npm, "name: is-odd"),
    ];
    let mut findings = Findings::default();
    for work in &works {
        findings.note(work.name, work.works(&api).await);
        findings.note(&format!("{}, not allowed", work.name), work.is_refused(&api).await);
    }
    findings.report();
    stack.finish();
}
