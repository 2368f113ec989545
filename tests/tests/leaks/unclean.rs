//! A sandbox that cannot be proven clean is destroyed, and nobody but its next user notices.

use std::time::Duration;

use serde_json::json;
use tests::docker::{await_gone, containers, docker};
use tests::{Api, Stack, code, command};

/// Says where it ran, and that it met nothing.
async fn look(api: &Api) -> String {
    let looked = api.run(code("python", "import os; print(os.listdir('/tmp'))")).await;
    assert_eq!((&looked["stdout"], &looked["exitCode"]), (&json!("[]"), &json!(0)), "{looked}");
    looked["containerId"].as_str().expect("it ran in one").to_owned()
}

fn serve() -> (Stack, Api) {
    Stack::serve(&json!({
        "maxConcurrent": 1, "poolStrategy": "fast",
        "worker": {"prewarm": [], "maxContainers": 1},
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_reset_cannot_remove_destroys_the_sandbox() {
    let (mut stack, api) = serve();
    let before = look(&api).await;
    assert_eq!(look(&api).await, before, "it is used again as long as it is clean");

    // Only root inside the sandbox could make this, so a hole is played: a file of root's.
    let label = format!("isol8.worker={}", stack.worker_id(0));
    let mut sandboxes = containers(&label);
    let (Some(sandbox), None) = (sandboxes.pop(), sandboxes.pop()) else {
        panic!("there is not exactly one sandbox");
    };
    assert!(sandbox.starts_with(&before), "{sandbox} is not {before}");
    let line = ": > /tmp/on; until test -e /tmp/left; do sleep 0.01; done; echo seen";
    let job = command("python", line);
    let hole = async {
        // Not `ls`, which an older gVisor does not run.
        let look = ["exec", &sandbox, "bash", "-c", "cd /tmp; echo *"];
        while !docker(&look).contains("on") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        docker(&["exec", "--user", "0", &sandbox, "touch", "/tmp/left"])
    };
    let (ended, _) = tokio::join!(api.run(job), hole);
    assert_eq!(ended["stdout"], "seen", "{ended}");

    let after = look(&api).await;
    assert_ne!(after, before, "what could not be proven clean was used again");
    await_gone(&sandbox);
    assert_eq!(look(&api).await, after, "the next one is used again");
    let told = stack.node(0).log().find("destroying a sandbox");
    assert!(told.len() == 1 && told[0].contains("/tmp holds"), "{told:?}");
    stack.finish();
}
