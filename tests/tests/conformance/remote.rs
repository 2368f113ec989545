//! A client that behaves on the wire as isol8's own does, on two JavaScript runtimes.

use std::path::Path;
use std::process::Command;

use tests::api::KEY;

use super::{fleet, settings};

/// Checks that each runtime must have passed: a script that stops early is not a success.
const CHECKS: usize = 36;

#[tokio::test(flavor = "multi_thread")]
async fn isol8s_own_client_works_unchanged() {
    let (stack, gateways) = fleet(&settings());
    for runtime in ["node", "bun"] {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
        let output = Command::new("docker")
            .args(["run", "--rm", "--network", "host", "--volume"])
            .arg(format!("{}:/conformance:ro", here.display()))
            .args(["--entrypoint", runtime, &format!("isol8:{runtime}")])
            .args(["/conformance/remote_client.mjs", gateways[0].address(), gateways[1].address()])
            .arg(KEY)
            .output()
            .expect("docker can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
        assert!(
            output.status.success() && passed >= CHECKS,
            "{runtime}: {passed} checks passed\n{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    stack.finish();
}
