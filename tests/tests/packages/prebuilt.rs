//! Images that the configuration names: built before the worker takes jobs, and taken for jobs whose packages
//! they have, the one with the fewest others first.

use std::process::id as process_id;

use serde_json::json;
use tests::case::equal;
use tests::docker::docker;
use tests::{Findings, Stack};

use crate::{run, volumes, with_packages};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_the_configuration_stands_in_for_the_packages_it_has() {
    let name = |name: &str| format!("isol8-test-prebuilt-{}:{name}", process_id());
    let image = |tag: &str, packages: &[&str]| {
        json!({"tag": name(tag), "runtime": "bash", "installPackages": packages,
               "setupScript": format!("echo {tag} > /sandbox/which")})
    };
    let config = json!({
        "prebuiltImages": [image("small", &["jq"]), image("large", &["jq", "sl"])],
        "policy": {"images": [name("*")]},
        "worker": {"prewarm": []},
    });
    let (stack, api) = Stack::serve(&config);
    let mut findings = Findings::default();
    for (packages, which) in
        [(&["jq"][..], "small"), (&["sl"], "large"), (&["sl", "jq"], "large"), (&["jq"], "small")]
    {
        let code = "cat which; command -v jq";
        let ran = run(&api, &with_packages("bash", packages, code)).await;
        let case = packages.join(" and ");
        let ran = findings.note(&case, ran).unwrap_or_default();
        let expected = format!("{which}\n/usr/bin/jq");
        findings.note(&case, equal("stdout", &ran["stdout"], &expected.as_str()));
    }
    let made = volumes(&stack.worker_id(0));
    findings.check("nothing was installed", made.is_empty(), &made);
    stack.finish();
    let _removed = docker(&["rmi", "--force", &name("small"), &name("large")]);
    findings.report();
}
