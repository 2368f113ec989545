//! No sandbox serves two tenants, whatever the order of their jobs.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::{Api, Stack, code};

/// Runs a job for a tenant and returns the sandbox it ran in.
async fn place_of(api: &Api, tenant: &str) -> String {
    let program = "import os; print(os.listdir('/sandbox')); open('/sandbox/left', 'w').close()";
    let client = reqwest::Client::builder().no_proxy().build().expect("a client can be built");
    let request = client
        .request(Method::POST, format!("{}/execute", api.address()))
        .bearer_auth(KEY)
        .header("X-Isol8-Tenant", tenant)
        .body(code("python", program).to_string());
    let response = request.send().await.expect("there is an answer");
    let result: Value = response.json().await.expect("results are JSON");
    assert_eq!(result["stdout"], "['main.py']", "{result}");
    result["containerId"].as_str().expect("it ran in one").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_belongs_to_one_tenant_for_life() {
    // Room for one container: the only warm one is always the other tenant's.
    for max_containers in [1, 3] {
        let (stack, api) = Stack::serve(&json!({
            "maxConcurrent": 1, "poolStrategy": "fast",
            "worker": {"prewarm": ["python"], "maxContainers": max_containers},
        }));
        let mut places = [BTreeSet::new(), BTreeSet::new()];
        for turn in [0, 1, 0, 0, 1, 1] {
            places[turn].insert(place_of(&api, ["one", "two"][turn]).await);
        }
        assert!(places[0].is_disjoint(&places[1]), "{places:?}");
        // Else nothing was warm, and the test showed nothing.
        assert!(places[0].len() + places[1].len() < 6, "{places:?}");
        stack.finish();
    }
}
