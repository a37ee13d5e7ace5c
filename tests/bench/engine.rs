//! One S3 endpoint for every subject of `bench cold`, and the same bytes in it as objects.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;

/// The bucket of embedded stores.
pub const BUCKET: &str = "coldfs";
const ACCESS_KEY: &str = "bench";
const SECRET_KEY: &str = "benchbench";

/// `coldfs s3 serve` in a process of its own, on loopback.
pub struct Engine {
    child: Child,
    port: u16,
}

impl Engine {
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldfs"));
        command.args(["s3", "serve"]).arg(dir).args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "coldfs s3 serve does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What every S3 tool takes from its environment.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.url()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The SDK as it comes, without a line of ours.
    pub fn client(&self) -> Client {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .endpoint_url(self.url())
            .force_path_style(true)
            .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "bench"));
        Client::from_conf(config.build())
    }

    /// The file of s3fs with its credentials.
    pub fn password_file(&self, work: &Path) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let file = work.join("s3fs-password");
        std::fs::write(&file, format!("{ACCESS_KEY}:{SECRET_KEY}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Puts a file as an object.
pub async fn put(client: &Client, key: &str, body: Vec<u8>) {
    let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(body));
    put.send().await.unwrap();
}

/// Gets a range of an object.
pub async fn get(client: &Client, key: &str, range: std::ops::Range<u64>) -> usize {
    let range = format!("bytes={}-{}", range.start, range.end - 1);
    let get = client.get_object().bucket(BUCKET).key(key).range(range);
    get.send().await.unwrap().body.collect().await.unwrap().into_bytes().len()
}
