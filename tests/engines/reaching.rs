//! Ways to reach an engine that the AWS chain alone does not know: a certificate of one's own, and
//! a role that is assumed.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::harness::liar::{Liar, Lie, Rule};
use super::harness::mount::Start;
use super::harness::pattern;
use super::harness::site::Site;
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
}

/// A token service that gives the same credentials to whoever asks, and what it was asked.
struct Tokens {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tokens {
    /// Serves as long as the process lives.
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                heard.lock().unwrap().push(assume(stream.unwrap()).unwrap());
            }
        });
        Self { url, asked }
    }
}

/// Answers one `AssumeRole`; the request.
fn assume(mut stream: TcpStream) -> io::Result<String> {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    // The session's name comes last of its parameters.
    while !request.contains("RoleSessionName=coldfs") {
        let length = stream.read(&mut buffer)?;
        assert_ne!(length, 0, "{request}");
        request.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    let body = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleResult><Credentials><AccessKeyId>ASSUMED</AccessKeyId>\
        <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
        <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        <AssumedRoleUser><AssumedRoleId>id</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/cold/coldfs</Arn></AssumedRoleUser>\
        </AssumeRoleResult></AssumeRoleResponse>";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(request)
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
