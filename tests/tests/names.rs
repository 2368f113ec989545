//! Names that lead where nothing may go, now or the next time they are asked for: a name server of our own
//! tells them to a real worker, and a machine that may not be reached listens for a connection.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tests::dns::{NameServer, Record};
use tests::forbidden::Place;
use tests::upstream::{Answer, Upstream};
use tests::{Stack, command, reflect};

/// It stands for the world: the one address that may be reached.
const WORLD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn configuration(names: &NameServer) -> Value {
    json!({
        "worker": {"resolvers": [names.address.to_string()], "prewarm": ["bash"]},
        "policy": {"allowPrivateAddresses": [format!("{WORLD}/32")]},
        "remoteCode": {
            "enabled": true, "allowedSchemes": ["http", "https"], "blockedHosts": [], "enableCache": false,
        },
    })
}

/// What each name leads to; `before` is how often it was asked for.
fn script(name: &str, before: usize) -> Option<Vec<Record>> {
    let (world, here) = (Record::A(WORLD), Record::A(HERE));
    let mapped = |text: &str| Record::Aaaa(text.parse().expect("an address"));
    Some(match name {
        "world.test" => vec![world],
        // The world when it is judged, this machine ever after.
        "rebind.test" if before == 0 => vec![world],
        "rebind.test" => vec![here],
        "both.test" => vec![here, world],
        "alias.test" => vec![Record::Cname("inside.test"), here],
        "far.alias.test" => vec![Record::Cname("a.test"), Record::Cname("b.test"), world],
        "mapped.test" => vec![mapped("::ffff:127.0.0.1")],
        "translated.test" => vec![mapped("64:ff9b::7f00:1"), mapped("::127.0.0.1")],
        "six.test" => vec![mapped("::1"), mapped("fe80::1"), mapped("fd00::1")],
        "empty.test" => vec![],
        "circle.test" => vec![Record::Cname("circle.test")],
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_changes_its_mind_leads_nowhere_else() {
    let names = NameServer::start(script).await;
    let world = Upstream::start(&WORLD.to_string(), reflect).await;
    let forbidden = Place::open("127.0.0.1", 0);
    let (stack, api) = Stack::serve(&configuration(&names));
    let (open, shut) = (world.address.port(), forbidden.at().port());
    let run = async |line: &str| {
        let mut body = command("bash", line);
        body["options"] = json!({"network": "filtered", "logNetwork": true});
        body["request"]["timeoutMs"] = json!(80_000);
        api.run(body).await
    };
    let lines = [
        ("world.test", open, "/x 0 200"),
        // What was judged is what is dialled: it was asked for once.
        ("rebind.test", open, "/x 0 200"),
        ("rebind.test", shut, "a loopback address 403"),
        ("both.test", open, "/x 0 200"),
        ("far.alias.test", open, "/x 0 200"),
        ("alias.test", shut, "a loopback address 403"),
        ("mapped.test", shut, "a loopback address 403"),
        ("translated.test", shut, "403"),
        ("six.test", shut, "403"),
        ("empty.test", shut, "connection to empty.test failed 502"),
        ("circle.test", shut, "connection to circle.test failed 502"),
        ("nobody.test", shut, "connection to nobody.test failed 502"),
    ];
    for (name, port, expected) in lines {
        let line = format!("curl -s -w ' %{{http_code}}' http://{name}:{port}/x");
        let result = run(&line).await;
        let said = result["stdout"].as_str().unwrap_or_default().replace(&format!(":{port}"), "");
        let said = said.replace(", which may not be reached", "");
        assert!(said.ends_with(expected), "{name}: {said}: {result}");
        if name == "rebind.test" && port == open {
            assert_eq!(names.asked(name), 1);
        }
    }
    // The same through a tunnel, where the program's own TLS could begin.
    let line = format!(
        "for name in rebind alias mapped six; do curl -sp -o /dev/null -w '%{{http_connect}} ' http://$name.test:{shut}/; done; true"
    );
    assert_eq!(run(&line).await["stdout"], "403 403 403 403");
    assert_eq!(forbidden.visits(), 0, "somebody came");
    world.await_quiet().await;
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn code_by_url_is_not_fetched_from_a_name_that_changes_its_mind() {
    let names = NameServer::start(script).await;
    let world = Upstream::start(&WORLD.to_string(), |_| Answer::ok("echo fetched")).await;
    let forbidden = Place::open("127.0.0.1", 0);
    let (stack, api) = Stack::serve(&configuration(&names));
    let by_url = |name: &str, port: u16| {
        let url = format!("http://{name}:{port}/x.sh");
        json!({"request": {"runtime": "bash", "codeUrl": url, "allowInsecureCodeUrl": true}})
    };
    let fetched = api.run(by_url("rebind.test", world.address.port())).await;
    assert_eq!(fetched["stdout"], "fetched", "{fetched}");
    for name in ["rebind.test", "alias.test", "mapped.test", "six.test"] {
        let reply = api.post(by_url(name, forbidden.at().port()).to_string()).await;
        let reply = reply.expect("there is an answer");
        assert_eq!(reply.json()["code"], "POLICY_VIOLATION", "{name}: {}", reply.text);
    }
    assert_eq!(forbidden.visits(), 0, "somebody came");
    stack.finish();
}
