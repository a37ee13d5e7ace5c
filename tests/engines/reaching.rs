//! Ways to reach an engine: a certificate of one's own, a role that is assumed, a region that nobody
//! named, and the links of the AWS chain that are not a key in a file.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::liar::{Liar, Lie, Rule};
use super::harness::mount::Start;
use super::harness::pattern;
use super::harness::site::{Site, scratch};
use super::harness::{can_tier, has, must, raw, wait_for};

const BYTES: usize = 50_000;

/// Sends a file there and reads it back.
fn there_and_back(site: &Site, start: &Start) {
    let mount = site.start(start);
    mount.all("migrate", &site.mnt);
    assert_eq!(mount.state(&site.mnt.join("file")), "released");
    assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
    mount.detach();
}

fn site() -> Site {
    let site = Site::new();
    std::fs::write(site.data.join("file"), pattern::bytes(1, BYTES)).unwrap();
    site
}

/// TLS before a plain server, with a certificate that only `authority` vouches for.
struct Tls {
    port: u16,
    socat: Child,
}

impl Tls {
    fn before(dir: &Path, plain: &str) -> Self {
        let script = "
            openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ours \
                -keyout ca.key -out ca.pem
            openssl req -newkey rsa:2048 -nodes -subj /CN=engine -keyout key -out request
            printf 'subjectAltName=IP:127.0.0.1' >names
            openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile names -out chain
            cat key chain >server.pem";
        must(Command::new("sh").args(["-ec", script]).current_dir(dir));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut socat = Command::new("socat");
        let listen = format!("OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork");
        socat.arg(format!("{listen},cert={},verify=0", dir.join("server.pem").display()));
        socat.arg(format!("TCP:{}", plain.trim_start_matches("http://")));
        raw::die_with_parent(&mut socat);
        let socat = socat.stderr(Stdio::null()).spawn().unwrap();
        wait_for(Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { port, socat }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.socat.kill().ok();
        self.socat.wait().ok();
    }
}

#[test]
fn an_engine_with_a_certificate_of_ones_own_is_believed_by_its_authority_only() {
    if !can_tier() || !has("socat") || !has("openssl") {
        return;
    }
    let (liar, site) = (Liar::start(), site());
    let tls = Tls::before(site.dir.path(), &liar.endpoint());
    let authority = site.dir.path().join("ca.pem");
    let config = |authority: &str| {
        let port = tls.port;
        let start =
            site.configured(&format!("[s3]\nendpoint = 'https://127.0.0.1:{port}'\n{authority}\n"));
        Start { store: Some(liar.store_url()), env: liar.env(), ..start }
    };
    let died = site.try_start(&config("")).err().expect("nobody vouches for it");
    assert!(died.log.contains("certificate"), "{}", died.log);
    assert!(liar.take_seen().is_empty());
    there_and_back(&site, &config(&format!("ca_bundle = '{}'", authority.display())));
    assert!(!liar.take_seen().is_empty());
    // As other S3 tools are told of it.
    let mut start = config("");
    start.env.push(("AWS_CA_BUNDLE".into(), authority.to_str().unwrap().into()));
    there_and_back(&site, &start);
    assert!(!liar.take_seen().is_empty());
}

#[test]
fn a_bucket_s_region_is_followed_once_where_nobody_named_one() {
    if !can_tier() {
        return;
    }
    let header = ("x-amz-bucket-region", "eu-west-9");
    for (status, code) in [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")] {
        let (liar, site) = (Liar::start(), site());
        let elsewhere = || Rule::new(Lie::answers_with(status, code, header));
        liar.script(elsewhere().signed_for("us-east-1"));
        let named = liar.mount_options();
        let died = site.try_start(&named).err().expect("us-east-1 was named");
        assert!(died.log.contains("eu-west-9"), "{}", died.log);
        assert!(liar.take_seen().iter().all(|asked| asked.region == "us-east-1"));

        let mut start = liar.mount_options();
        start.env.retain(|(name, _)| name != "AWS_REGION");
        start.env.push(("AWS_CONFIG_FILE".into(), "/dev/null".into()));
        let mount = site.start(&start);
        assert!(mount.log_tail().contains("eu-west-9"), "{}", mount.log_tail());
        liar.take_seen();
        mount.all("migrate", &site.mnt);
        assert!(std::fs::read(site.mnt.join("file")).unwrap() == pattern::bytes(1, BYTES));
        let seen = liar.take_seen();
        assert!(!seen.is_empty() && seen.iter().all(|asked| asked.region == "eu-west-9"));
        // Once: an engine that sends its clients round is not followed for ever.
        let further = ("x-amz-bucket-region", "ap-east-9");
        liar.script(Rule::new(Lie::answers_with(status, code, further)));
        let new = site.mnt.join("new");
        std::fs::write(&new, pattern::bytes(2, BYTES)).unwrap();
        let output = mount.coldfs(["archive".as_ref(), new.as_os_str()]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains("ap-east-9"), "{text}");
        assert!(liar.take_seen().iter().all(|asked| asked.region == "eu-west-9"));
        mount.detach();
    }
}

/// Keys from somewhere else than the environment: what is put into it instead.
fn signs_with(expected: &str, more: &[(&str, &str)]) {
    let (liar, site) = (Liar::start(), site());
    let mut env = liar.env();
    env.retain(|(name, _)| {
        !["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name.as_str())
    });
    // Nobody's own files.
    let default =
        ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"].map(|name| (name, "/dev/null"));
    for (name, value) in default.iter().chain(more) {
        env.retain(|(known, _)| known != name);
        env.push(((*name).to_owned(), (*value).to_owned()));
    }
    let config = format!("[s3]\nendpoint = '{}'\n", liar.endpoint());
    let start = Start { store: Some(liar.store_url()), env, ..site.configured(&config) };
    there_and_back(&site, &start);
    let seen = liar.take_seen();
    assert!(!seen.is_empty() && seen.iter().all(|asked| asked.access_key == expected), "{seen:?}");
}

#[test]
fn credentials_come_by_a_process() {
    if !can_tier() {
        return;
    }
    let dir = scratch();
    let keys = dir.path().join("keys.json");
    let text = "{\"Version\":1,\"AccessKeyId\":\"PROCESS\",\"SecretAccessKey\":\"secret\"}";
    std::fs::write(&keys, text).unwrap();
    let config = dir.path().join("config");
    let text = format!("[default]\ncredential_process = cat {}\n", keys.display());
    std::fs::write(&config, text).unwrap();
    signs_with("PROCESS", &[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
}

#[test]
fn credentials_come_from_a_container_s_server() {
    if !can_tier() {
        return;
    }
    let served = Tokens::serve("\r\n\r\n", |_| {
        let keys =
            "\"AccessKeyId\":\"CONTAINER\",\"SecretAccessKey\":\"secret\",\"Token\":\"token\"";
        format!("{{{keys},\"Expiration\":\"2099-01-01T00:00:00Z\"}}")
    });
    signs_with(
        "CONTAINER",
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/keys", served.url)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "ours"),
        ],
    );
    let asked = served.asked.lock().unwrap();
    let is_right = |text: &String| text.starts_with("GET /keys") && text.contains("ours");
    assert!(!asked.is_empty() && asked.iter().all(is_right), "{asked:?}");
}

#[test]
fn credentials_come_by_a_web_identity() {
    if !can_tier() {
        return;
    }
    let dir = scratch();
    let token = dir.path().join("token");
    std::fs::write(&token, "from-our-issuer").unwrap();
    let tokens =
        Tokens::serve("from-our-issuer", |_| assumed("AssumeRoleWithWebIdentity", "WEBIDENTITY"));
    signs_with(
        "WEBIDENTITY",
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/cold"),
            ("AWS_ROLE_SESSION_NAME", "coldfs"),
            ("AWS_ENDPOINT_URL_STS", &tokens.url),
        ],
    );
    let asked = tokens.asked.lock().unwrap();
    let is_right = |text: &String| {
        text.contains("Action=AssumeRoleWithWebIdentity") && text.contains("role%2Fcold")
    };
    assert!(!asked.is_empty() && asked.iter().all(is_right), "{asked:?}");
}

/// A token service that gives the same credentials to whoever asks, and what it was asked.
struct Tokens {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tokens {
    /// Serves as long as the process lives.
    fn start() -> Self {
        // The session's name comes last of its parameters.
        Self::serve("RoleSessionName=coldfs", |_| assumed("AssumeRole", "ASSUMED"))
    }

    /// Answers each request, which ends where `last` is in it.
    fn serve(last: &'static str, answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let asked = serve_one(stream.unwrap(), last, &answer).unwrap();
                heard.lock().unwrap().push(asked);
            }
        });
        Self { url, asked }
    }
}

/// Answers one request; what it was.
fn serve_one(
    mut stream: TcpStream,
    last: &str,
    answer: impl Fn(&str) -> String,
) -> io::Result<String> {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    while !request.contains(last) {
        let length = stream.read(&mut buffer)?;
        assert_ne!(length, 0, "{request}");
        request.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let body = answer(&request);
    let kind = if body.starts_with('<') { "text/xml" } else { "application/json" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close");
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(request)
}

/// What a token service answers.
fn assumed(action: &str, key: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <{action}Result><Credentials><AccessKeyId>{key}</AccessKeyId>\
        <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
        <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        <AssumedRoleUser><AssumedRoleId>id</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/cold/coldfs</Arn></AssumedRoleUser>\
        </{action}Result></{action}Response>"
    )
}

#[test]
fn a_role_is_assumed_with_the_chains_credentials_and_signs_every_request() {
    if !can_tier() {
        return;
    }
    let (liar, site) = (Liar::start(), site());
    liar.script(Rule::new(Lie::answers(403, "AccessDenied")).signed_by("base"));
    let tokens = Tokens::start();
    let mut env = liar.env();
    // The endpoint is the store's, and not the token service's.
    env.retain(|(name, _)| name != "AWS_ENDPOINT_URL" && name != "AWS_ACCESS_KEY_ID");
    env.push(("AWS_ACCESS_KEY_ID".into(), "base".into()));
    env.push(("AWS_ENDPOINT_URL_STS".into(), tokens.url.clone()));
    let role = "arn:aws:iam::123456789012:role/cold";
    let config = format!("[s3]\nendpoint = '{}'\nrole_arn = '{role}'\n", liar.endpoint());
    let start = Start { store: Some(liar.store_url()), env, ..site.configured(&config) };
    there_and_back(&site, &start);
    let asked = tokens.asked.lock().unwrap();
    let by_the_chain = |text: &String| text.contains("=base/") && text.contains("role%2Fcold");
    assert!(!asked.is_empty() && asked.iter().all(by_the_chain), "{asked:?}");
    let seen = liar.take_seen();
    assert!(!seen.is_empty() && seen.iter().all(|asked| asked.access_key == "ASSUMED"), "{seen:?}");
}
