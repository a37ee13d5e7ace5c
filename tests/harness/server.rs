//! An S3 endpoint that can be stopped in the middle: `coldfs s3 serve` in a process of its own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::mount::Start;
use super::{coldfs, raw, wait_for};

/// The bucket of embedded stores.
const BUCKET: &str = "coldfs";

pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub fn start(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = coldfs();
        command.args(["s3", "serve"]).arg(dir).args(["--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--access-key", "test", "--secret-key", "testtest"]);
        let log = std::fs::File::create(dir.join("../server.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        raw::die_with_parent(&mut command);
        let mut server = Self { child: command.spawn().unwrap(), port };
        let up = wait_for(Duration::from_secs(20), || {
            assert!(server.child.try_wait().unwrap().is_none(), "coldfs s3 serve ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        assert!(up.is_some(), "coldfs s3 serve does not listen");
        server
    }

    /// How to mount with this store.
    pub fn mount_options(&self) -> Start {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Start {
            store: Some(format!("s3://{BUCKET}/prefix")),
            env: vec![
                pair("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{}", self.port)),
                pair("AWS_ACCESS_KEY_ID", "test"),
                pair("AWS_SECRET_ACCESS_KEY", "testtest"),
                pair("AWS_REGION", "us-east-1"),
                pair("AWS_EC2_METADATA_DISABLED", "true"),
            ],
            ..Start::default()
        }
    }

    /// Answers nothing from now on, and closes nothing.
    pub fn freeze(&self) {
        raw::signal(self.child.id(), libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        raw::signal(self.child.id(), libc::SIGCONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
