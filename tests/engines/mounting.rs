//! A mount with an engine that refuses it, or is told of by a configuration file.

use std::process::Command;

use super::harness::liar::{BUCKET, Liar, Lie, Op, Rule};
use super::harness::mount::{Start, is_mounted};
use super::harness::pattern;
use super::harness::site::Site;
use super::harness::{can_tier, coldfs, run};

const BYTES: usize = 200_000;

/// A directory with one file.
fn site() -> Site {
    let site = Site::new();
    std::fs::write(site.data.join("file"), pattern::bytes(1, BYTES)).unwrap();
    site
}

/// A mount that must be refused: its exit code and words.
fn refused(site: &Site, url: &str, env: &[(String, String)], more: &[&str]) -> (i32, String) {
    let mut command = Command::new("timeout");
    command.arg("100").arg(coldfs().get_program());
    command.arg("mount").arg(&site.data).arg(&site.mnt).args(["--foreground", "--store", url]);
    command.args(more).envs(env.iter().cloned()).env("COLDFS_RUNTIME_DIR", &site.runtime);
    let output = run(&mut command);
    assert!(!is_mounted(&site.mnt));
    assert!(std::fs::read(site.data.join("file")).unwrap() == pattern::bytes(1, BYTES));
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn is_refused(rule: Rule, words: &[&str]) {
    let (liar, site) = (Liar::start(), site());
    liar.script(rule);
    let (code, text) = refused(&site, &liar.store_url(), &liar.env(), &[]);
    assert_eq!(code, 4, "{text}");
    says(&text, &["tenant data", "data/owner"]);
    says(&text, words);
}

#[test]
fn an_engine_that_refuses_a_mount_is_told_with_tenant_object_cause_and_next_step() {
    if !can_tier() {
        return;
    }
    let region = ("x-amz-bucket-region", "eu-west-9");
    let all = |lie: Lie| Rule::new(lie);
    let missing = all(Lie::answers(404, "NoSuchBucket"));
    is_refused(missing, &["there is no bucket coldfs", "make the bucket"]);
    let forbidden = all(Lie::answers(403, "AccessDenied"));
    is_refused(forbidden, &["AccessDenied", "let these credentials"]);
    let elsewhere = all(Lie::answers_with(301, "PermanentRedirect", region));
    is_refused(elsewhere, &["PermanentRedirect", "eu-west-9", "AWS_REGION"]);
    let skewed = all(Lie::answers(403, "RequestTimeTooSkewed"));
    is_refused(skewed, &["RequestTimeTooSkewed", "clock"]);
    let expired = all(Lie::answers(400, "ExpiredToken"));
    is_refused(expired, &["ExpiredToken", "renew the credentials"]);
    let read_only = Rule::new(Lie::answers(403, "AccessDenied")).on(Op::Put);
    is_refused(read_only, &["put data/owner", "AccessDenied", "let these credentials"]);
    let upset = Rule::new(Lie::ErrorIn200("InternalError")).on(Op::Get);
    is_refused(upset, &["get data/owner", "InternalError", "coldfs doctor"]);
    let half = Rule::new(Lie::Half).on(Op::Get);
    is_refused(half, &["get data/owner", "does not answer", "coldfs doctor"]);
}

#[test]
fn an_endpoint_whose_name_nobody_knows_is_told() {
    if !can_tier() {
        return;
    }
    let (liar, site) = (Liar::start(), site());
    let mut env = liar.env();
    env[0].1 = "http://s3.nowhere.invalid".into();
    let (code, text) = refused(&site, &liar.store_url(), &env, &[]);
    assert_eq!(code, 4, "{text}");
    says(&text, &["tenant data", "data/owner", "does not answer", "dns", "check the endpoint"]);

    // A tenant whose store it is can be mounted, and what is here can be read.
    let mount = site.start(&liar.mount_options());
    mount.detach();
    let start = Start { env, ..liar.mount_options() };
    let mount = site.start(&start);
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    let output = mount.coldfs(["archive".as_ref(), site.mnt.join("file").as_os_str()]);
    assert_eq!(output.status.code(), Some(1));
    says(&String::from_utf8_lossy(&output.stderr), &["file", "data/seg/", "dns", "check the endp"]);
    mount.detach();
}

#[test]
fn the_table_s3_says_how_the_engine_is_reached_and_used() {
    if !can_tier() {
        return;
    }
    let (liar, site) = (Liar::start(), site());
    // Larger than a segment for small files: it is put in parts.
    std::fs::write(site.data.join("large"), vec![3; 80 << 20]).unwrap();
    let config = site.dir.path().join("coldfs.toml");
    let text = format!(
        "store = '{}'\n[s3]\nendpoint = '{}'\nregion = 'xx-north-1'\nprofile = 'cold'\n\
         storage_class = 'STANDARD_IA'\ntags = {{ owner = 't 1' }}\nverify = 'readback'\n",
        liar.store_url(),
        liar.endpoint()
    );
    std::fs::write(&config, text).unwrap();
    let credentials = site.dir.path().join("credentials");
    let text = "[cold]\naws_access_key_id = COLDKEY\naws_secret_access_key = secret\n";
    std::fs::write(&credentials, text).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let env = vec![
        pair("AWS_SHARED_CREDENTIALS_FILE", credentials.to_str().unwrap()),
        pair("AWS_CONFIG_FILE", "/dev/null"),
        pair("AWS_EC2_METADATA_DISABLED", "true"),
    ];
    let args = vec!["--config".to_owned(), config.to_str().unwrap().to_owned()];
    let start = Start { env: env.clone(), args, store: Some(liar.store_url()), ..Start::default() };
    let mount = site.start(&start);
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.status()["tenants"][0]["verify"], "readback");
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    mount.detach();
    let seen = liar.take_seen();
    assert!(seen.iter().all(|asked| asked.access_key == "COLDKEY"), "{seen:?}");
    for op in [Op::Put, Op::CreateUpload] {
        let segment =
            |asked: &&super::harness::liar::Asked| asked.op == op && asked.key.contains("/seg/");
        let put = seen.iter().find(segment).expect("a segment was put");
        let header = |name: &str| put.headers[name].to_str().unwrap();
        assert_eq!(header("x-amz-storage-class"), "STANDARD_IA", "{op:?}");
        assert_eq!(header("x-amz-tagging"), "owner=t%201", "{op:?}");
        assert_eq!(put.region, "xx-north-1");
    }

    for (text, words) in [
        ("[s3]\nca_bundle = '/nowhere/ca.pem'\n", ["/nowhere/ca.pem", "No such file"]),
        ("[s3]\nstorage_class = 'GLACIER'\n", ["GLACIER", "restored"]),
        ("[s3]\nregoin = 'x'\n", ["regoin", "line 2"]),
    ] {
        std::fs::write(&config, text).unwrap();
        let more = ["--config", config.to_str().unwrap()];
        let (code, text) = refused(&site_of(&site), &liar.store_url(), &env, &more);
        assert!(code == 2 || code == 4, "{text}");
        says(&text, &words);
    }
    let url = format!("disk:{}", site.store.display());
    std::fs::write(&config, "[s3]\nregion = 'x'\n").unwrap();
    let (code, text) =
        refused(&site_of(&site), &url, &env, &["--config", config.to_str().unwrap()]);
    assert_eq!(code, 2, "{text}");
    says(&text, &["[s3]", "disk:"]);
    assert_eq!(
        liar.keys().iter().filter(|key| key.contains("coldfs-doctor")).count(),
        0,
        "{BUCKET}"
    );
}

/// A site beside another, whose file is at home.
fn site_of(_: &Site) -> Site {
    site()
}

#[test]
fn a_copy_of_a_directory_is_a_guest_and_works() {
    if !can_tier() {
        return;
    }
    let (liar, first) = (Liar::start(), site());
    let guest = |mount: &super::harness::mount::Mount| {
        mount.status()["tenants"][0]["guest"].as_bool().unwrap()
    };
    let mount = first.start(&liar.mount_options());
    assert!(!guest(&mount));

    let copy = Site::new();
    super::harness::must(Command::new("cp").arg("-a").arg("-T").arg(&first.data).arg(&copy.data));
    let beside = copy.start(&liar.mount_options());
    assert!(guest(&beside), "{}", beside.log_tail());
    let people = beside.coldfs(["status"]);
    says(&String::from_utf8_lossy(&people.stdout), &["a copy of another directory", "--take-over"]);
    beside.all("migrate", &copy.mnt.join("file"));
    assert!(std::fs::read(copy.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    let guests = |liar: &Liar| {
        liar.keys().iter().filter(|key| key.starts_with("prefix/data/guests/")).count()
    };
    assert_eq!(guests(&liar), 1);
    beside.detach();
    assert!(!guest(&mount));
    mount.detach();

    let mount = first.start(&liar.mount_options());
    assert!(!guest(&mount), "the owner stays the owner");
    mount.detach();
    let start = Start { args: vec!["--take-over".into()], ..liar.mount_options() };
    let beside = copy.start(&start);
    assert!(!guest(&beside));
    assert_eq!(guests(&liar), 0);
    beside.detach();
    let mount = first.start(&liar.mount_options());
    assert!(guest(&mount), "whose place was taken is a guest");
    mount.detach();
}
