//! How a sandbox is built, as a program sees it and as the engine does. What programs try against it is in
//! `escapes/`, what they could leave for the next in `leaks/`.

use serde_json::{Value, json};
use tests::case::equal;
use tests::docker::inspect;
use tests::{Case, Findings, Stack, code, command, run_cases};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_locked_in() {
    let (stack, api) = Stack::serve(&json!({"worker": {"prewarm": ["bash", "python"]}}));
    let mut cases = Vec::new();
    let mut shell = |name: &str, line: &str, out: &str| {
        cases.push(Case::new(name, &command("bash", line)).prints(out));
    };
    shell("who it is", "id -u; id -g; id -G; echo $HOME; pwd", "100\n101\n101\n/sandbox\n/sandbox");
    // The bounding set is that of process 1; without new privileges nothing can be taken from it.
    shell(
        "no capabilities, no way to get any",
        "grep -E 'Cap(Inh|Prm|Eff|Amb)|NoNewPrivs' /proc/self/status | awk '{print $2}' | sort -u",
        "0000000000000000\n1",
    );
    shell("a system-call filter", "grep -w Seccomp: /proc/self/status | awk '{print $2}'", "2");
    shell("only the loopback network", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo");
    shell("no route out", "tail -n +2 /proc/net/route | wc -l", "0");
    shell(
        "no connection out",
        "(exec 3<>/dev/tcp/1.1.1.1/53) 2>/dev/null || echo no; (exec 3<>/dev/tcp/172.17.0.1/22) 2>/dev/null || echo no",
        "no\nno",
    );
    shell("no name resolution", "getent hosts example.com || echo no", "no");
    shell(
        "a read-only root",
        "for f in / /etc /usr /usr/local/bin /var /home /root /opt /run /isol8 /var/tmp; do touch $f/x 2>/dev/null && echo $f; done; echo end",
        "end",
    );
    shell(
        "nothing to execute in /tmp",
        "cp /bin/true /tmp/x; chmod +x /tmp/x; /tmp/x 2>/dev/null || echo no",
        "no",
    );
    shell("but in /sandbox", "cp /bin/true x; ./x && echo yes", "yes");
    shell(
        "no set-user-id programs to profit from",
        "find / -xdev -perm /6000 -type f 2>/dev/null | while read f; do $f -c id -u 2>/dev/null </dev/null; done | grep -x 0; echo end",
        "end",
    );
    shell(
        "process 1 lives",
        "kill -9 1 2>/dev/null; kill -TERM 1 2>/dev/null; kill -STOP 1 2>/dev/null; echo alive",
        "alive",
    );
    shell(
        "process 1 is not to be read",
        "for f in environ mem maps fd/0 exe cwd/x root/etc/hostname auxv; do cat /proc/1/$f >/dev/null 2>&1 && echo $f; done; ls /proc/1/fd 2>/dev/null; echo end",
        "end",
    );
    shell(
        "nor are the other processes of ours",
        "for p in /proc/[0-9]*; do u=$(stat -c %u $p 2>/dev/null); [ \"$u\" = 100 ] && continue; \
         cat $p/environ $p/mem $p/maps >/dev/null 2>&1 && echo readable $p; kill -9 ${p#/proc/} 2>/dev/null && echo killed $p; done; echo end",
        "end",
    );
    shell(
        "no engine socket",
        "ls /var/run/docker.sock /run/docker.sock 2>/dev/null; echo end",
        "end",
    );
    shell(
        "no devices but harmless ones",
        "ls /dev | grep -vxE 'core|fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero|console'; echo end",
        "end",
    );
    shell("no descriptors of ours", "ls /proc/self/fd | sort -n | tr '\\n' ' '", "0 1 2 3");
    shell("no core dumps", "ulimit -c", "0");
    shell(
        "masked parts of /proc",
        "for f in /proc/kcore /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do (: > $f) 2>/dev/null && echo $f; done; cat /proc/kcore 2>/dev/null | head -c 1; echo end",
        "end",
    );
    shell(
        "no name spaces",
        "unshare -Ur true 2>/dev/null || echo no; unshare -m true 2>/dev/null || echo no",
        "no\nno",
    );
    shell("no mounts", "mount -t tmpfs x /sandbox 2>/dev/null || echo no", "no");

    let raise = "import resource\ntry: resource.setrlimit(resource.RLIMIT_CORE, (1, 1))\nexcept (ValueError, OSError): print('no')";
    cases.push(Case::new("raise a hard limit", &code("python", raise)).prints("no"));
    run_cases(&api, cases).await.report();
    stack.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_is_built_to_hold() {
    let (stack, api) = Stack::serve(&json!({}));
    let result = api.run(command("bash", "true")).await;
    let container = inspect(result["containerId"].as_str().expect("it ran in one"));
    let host = &container["HostConfig"];
    let mut findings = Findings::default();
    for (what, found, expected) in [
        ("privileged", &host["Privileged"], json!(false)),
        ("read-only root", &host["ReadonlyRootfs"], json!(true)),
        ("network", &host["NetworkMode"], json!("none")),
        ("dropped", &host["CapDrop"], json!(["ALL"])),
        ("memory", &host["Memory"], json!(512_u64 << 20)),
        ("memory and swap", &host["MemorySwap"], json!(512_u64 << 20)),
        ("processes", &host["PidsLimit"], json!(64)),
        ("cores", &host["NanoCpus"], json!(1_000_000_000)),
        ("process name space", &host["PidMode"], json!("")),
        ("ipc name space", &host["IpcMode"], json!("private")),
        ("devices", &host["Devices"], json!([])),
        ("log", &host["LogConfig"]["Type"], json!("none")),
    ] {
        let found = if found.is_null() { &json!([]) } else { found };
        findings.note(what, equal(what, found, &expected));
    }
    let mut added: Vec<_> = host["CapAdd"].as_array().cloned().unwrap_or_default();
    added.sort_by_key(ToString::to_string);
    let allowed = [json!("KILL"), json!("SETGID"), json!("SETUID")];
    let plain: Vec<Value> = added
        .iter()
        .map(|name| json!(name.as_str().unwrap_or_default().trim_start_matches("CAP_")))
        .collect();
    findings.note("added capabilities", equal("CapAdd", &plain, &allowed));
    let security = host["SecurityOpt"].to_string();
    findings.check("no new privileges", security.contains("no-new-privileges"), &security);
    findings.check("seccomp profile", security.contains("seccomp={"), &security);
    for mount in container["Mounts"].as_array().into_iter().flatten() {
        findings.check(
            "mounts are read-only volumes",
            mount["RW"] == false && mount["Type"] == "volume",
            mount,
        );
    }
    findings.report();
    stack.finish();
}
